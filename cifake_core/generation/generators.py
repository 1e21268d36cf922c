"""Named generators, as data: each name is one fingerprint. Another sampler or model is another name.

A back end turns requests into pixels; `run` does everything else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from cifake_core.errors import ConfigurationError


class DeviceMemoryError(Exception):
    """The device has no room for a batch of this size; a smaller one may fit."""


@dataclass(frozen=True)
class Request:
    """One image to draw. `prompt` is None for generators that are told the class only."""

    object_class: str
    prompt: str | None
    seed: int


class Backend(Protocol):
    """A loaded generator: where it runs, and how many images it draws at once."""

    device: str
    batch: int

    def draw(self, requests: Sequence[Request]) -> list[np.ndarray | None]:
        """One (H, W, 3) uint8 image per request, None where the safety checker flagged it.

        An image depends on its own request only.

        Raises:
            DeviceMemoryError: too many requests at once for this device.
        """


@dataclass(frozen=True)
class Generator:
    """One entry of the table.

    Attributes:
        backend: which module runs it: `embedded` (ONNX Runtime) or `diffusers` (PyTorch).
        told: what conditions an image: its `class` or a `prompt`.
        steps, guidance: sampler steps and classifier-free guidance scale.
        scheduler: what is recorded; for diffusers a scheduler class, or `default` for the repository's own.
        model, revision: hub repository and commit; CIFAKE_GENERATOR_WEIGHTS replaces them by a folder or S3 prefix.
        size: pixels a side as drawn, before the codec resizes.
        variant: which of a repository's weight files, where it has several (`fp16`).
    """

    name: str
    backend: Literal["embedded"]
    told: Literal["class", "prompt"]
    steps: int
    guidance: float
    scheduler: str = "default"
    model: str = ""
    revision: str = "main"
    size: int = 32
    variant: str | None = None


GENERATORS = {
    generator.name: generator
    for generator in (Generator("embedded", "embedded", "class", steps=12, guidance=2.5, scheduler="flow-euler"),)
}


def named(name: str) -> Generator:
    """The table's entry of this name.

    Raises:
        ConfigurationError: no such generator.
    """
    if name not in GENERATORS:
        raise ConfigurationError(f"unknown generator {name!r}; there are {', '.join(GENERATORS)}")
    return GENERATORS[name]


def revision(generator: Generator) -> str:
    """What `model_revision` says of images by this generator: the hub commit, or a hash of the weights' files.

    Raises:
        ConfigurationError, ModelError: weights that were pointed at are not there or not whole.
    """
    from cifake_core.generation import embedded

    return embedded.weights().version


def open_backend(generator: Generator, threads: int = 0) -> Backend:
    """Load a generator.

    Args:
        threads: of a CPU back end; 0 lets it choose.

    Raises:
        ConfigurationError: what it needs is not installed, or weights are out of reach.
        ModelError: weights are damaged.
    """
    from cifake_core.generation import embedded

    return embedded.Embedded(generator, threads)
