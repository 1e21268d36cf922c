"""Weights of the generators that are trained here: in CIFAKE_HOME, or where CIFAKE_GENERATOR_WEIGHTS points."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from cifake_core.errors import ConfigurationError
from cifake_core.generation import torch_environment
from cifake_core.settings import settings

FILE = "weights.pt"


def folder(name: str) -> Path:
    """Where `cifake generate train --generator NAME` keeps what it makes."""
    return settings().home / "generator" / name


def weights(name: str) -> Path:
    """The file to draw with: `NAME/weights.pt` below CIFAKE_GENERATOR_WEIGHTS, or below CIFAKE_HOME/generator.

    Raises:
        ConfigurationError: there is none.
    """
    given = settings().generator_weights.removeprefix("file://")
    file = (Path(given).expanduser() / name if given else folder(name)) / FILE
    if not file.is_file():
        raise ConfigurationError(
            f"generator {name!r} has no weights at {file}: make them with `cifake generate train --generator {name}`, "
            "or point CIFAKE_GENERATOR_WEIGHTS at a folder that holds them"
        )
    return file


def load(name: str, threads: int = 0) -> dict[str, Any]:
    """The averaged weights to draw with, as tensors by name; torch then has so many threads (0: it chooses).

    Raises:
        ConfigurationError: no weights, or torch is not installed.
    """
    file = weights(name)
    try:
        import torch
    except ImportError as exc:
        raise ConfigurationError(torch_environment.missing(f"generator {name!r}")) from exc
    if threads:
        torch.set_num_threads(threads)
    found: dict[str, Any] = torch.load(file, weights_only=True)["average"]
    return found


def revision(name: str) -> str:
    """Short hash of the weights' file.

    Raises:
        ConfigurationError: there is none.
    """
    return hashlib.sha256(weights(name).read_bytes()).hexdigest()[:12]
