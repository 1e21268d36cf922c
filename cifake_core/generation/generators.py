"""Named generators, as data: each name is one fingerprint. Another sampler or model is another name.

A back end turns requests into pixels; `run` does everything else.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from cifake_core.errors import CifakeError, ConfigurationError


class DeviceMemoryError(Exception):
    """The device has no room for a batch of this size; a smaller one may fit."""


@contextlib.contextmanager
def must_fit(name: str) -> Iterator[None]:
    """Where no smaller batch is tried: memory that runs out for generator `name` ends with advice.

    Raises:
        CifakeError: it ran out.
    """
    try:
        yield
    except DeviceMemoryError as exc:
        first = (str(exc).splitlines() or ["out of memory"])[0]
        raise CifakeError(
            f"{name} does not fit the memory here ({first}); free some, or use a smaller generator"
        ) from exc


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
        backend: which module runs it: `embedded` (ONNX Runtime), `collage` (NumPy), `gan`, `pixel`
            or `diffusers` (PyTorch).
        told: what conditions an image: its `class` or a `prompt`.
        steps, guidance: sampler steps and classifier-free guidance scale.
        scheduler: the sampler; for diffusers a scheduler class, put in place of the repository's own if that differs.
        model, revision: hub repository and commit; CIFAKE_GENERATOR_WEIGHTS replaces them by a folder or URL.
        variant: which of a repository's weight files, where it has several (`fp16`).
        dtype: precision on CUDA.
        checked: does the model come with a safety checker? Then nothing is drawn without it.
        from_real: does it draw from the real images of CIFAKE_DATA? Then their hash is part of its revision.
    """

    name: str
    backend: Literal["embedded", "collage", "gan", "pixel", "diffusers"]
    told: Literal["class", "prompt"]
    steps: int
    guidance: float
    scheduler: str
    model: str = ""
    revision: str = "main"
    variant: str | None = None
    dtype: str = "float16"
    checked: bool = False
    from_real: bool = False


def _diffusers(name: str, model: str, steps: int, guidance: float, scheduler: str, **more: Any) -> Generator:
    return Generator(name, "diffusers", "prompt", steps, guidance, scheduler, model, **more)


_SD14 = "CompVis/stable-diffusion-v1-4"
_SD14_MORE = {"revision": "133a221b8aa7292a167afc5127cb63fb5005638b", "checked": True}
_SD35 = "stabilityai/stable-diffusion-3.5-medium"
_FLUX = "black-forest-labs/FLUX.1-schnell"
_FLOW = "FlowMatchEulerDiscreteScheduler"

# Steps and guidance are each model card's own; `stable-diffusion-v1-4` is the paper's.
GENERATORS = {
    generator.name: generator
    for generator in (
        Generator("embedded", "embedded", "class", steps=6, guidance=3.5, scheduler="flow-adams-bashforth"),
        Generator("collage", "collage", "class", 1, 1.0, "none", revision="1", from_real=True),
        *(
            Generator(name, "gan", "class", steps=1, guidance=1.0, scheduler="none", from_real=name != "dcgan")
            for name in ("dcgan", "dcgan-8", "sngan-4", "lsgan-8")
        ),
        Generator("pixel-diffusion", "pixel", "class", 12, 1.0, "ddim-from-half-noise", from_real=True),
        _diffusers("stable-diffusion-v1-4", _SD14, 50, 7.5, "PNDMScheduler", **_SD14_MORE),
        _diffusers("stable-diffusion-v1-4-dpm", _SD14, 20, 7.5, "DPMSolverMultistepScheduler", **_SD14_MORE),
        _diffusers("lcm-dreamshaper-v7", "SimianLuo/LCM_Dreamshaper_v7", 4, 8.0, "LCMScheduler", checked=True),
        _diffusers("sd-turbo", "stabilityai/sd-turbo", 1, 0.0, "EulerDiscreteScheduler", variant="fp16"),
        _diffusers("sdxl-turbo", "stabilityai/sdxl-turbo", 1, 0.0, "EulerAncestralDiscreteScheduler", variant="fp16"),
        _diffusers("stable-diffusion-3.5-medium", _SD35, 40, 4.5, _FLOW, dtype="bfloat16"),
        _diffusers("flux-1-schnell", _FLUX, 4, 0.0, _FLOW, dtype="bfloat16"),
    )
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

    One that draws from real images adds a hash of those.

    Raises:
        ConfigurationError, ModelError: weights that were pointed at are not there or not whole.
        DataNotFoundError: it draws from real images, and there are none.
    """
    own = _revision(generator)
    if not generator.from_real:
        return own
    from cifake_core.generation import real

    return f"{own}-{real.revision()}"


def _revision(generator: Generator) -> str:
    if generator.backend == "embedded":
        from cifake_core.generation import embedded

        return embedded.weights().version
    if generator.backend == "collage":
        return generator.revision
    if generator.backend in ("gan", "pixel"):
        from cifake_core.generation import trained

        return trained.revision(generator.name)
    from cifake_core.generation import model_files

    return model_files.revision(generator)


def open_backend(generator: Generator, threads: int = 0) -> Backend:
    """Load a generator.

    Args:
        threads: of a CPU back end; 0 lets it choose.

    Raises:
        ConfigurationError: what it needs is not installed, or weights are out of reach.
        ModelError: weights are damaged.
        DeviceMemoryError: it does not fit the device.
    """
    if generator.backend == "embedded":
        from cifake_core.generation import embedded

        return embedded.Embedded(generator, threads)
    if generator.backend == "collage":
        from cifake_core.generation import collage

        return collage.Collage(generator, threads)
    if generator.backend == "gan":
        from cifake_core.generation import gan

        return gan.Gan(generator, threads)
    if generator.backend == "pixel":
        from cifake_core.generation import pixel_diffusion

        return pixel_diffusion.PixelDiffusion(generator, threads)
    from cifake_core.generation import stable_diffusion

    return stable_diffusion.StableDiffusion(generator, threads)
