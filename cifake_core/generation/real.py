"""Real photographs as arrays, to train a generator on and to judge one by."""

from __future__ import annotations

import hashlib
from functools import cache

import numpy as np
import pyarrow as pa

from cifake_core.errors import ConfigurationError
from cifake_core.images import codec, collection, records
from cifake_core.images.sources import Side, resolve
from cifake_core.settings import CLASSES, REAL, settings


def read(side: Side) -> tuple[np.ndarray, np.ndarray]:
    """All real images of one side of the resolved source, through the codec.

    Returns (N, 32, 32, 3) uint8 and class indices (N,) int64 0 … 9.

    Raises:
        DataNotFoundError: no source, or no real images in it.
        ConfigurationError: it holds other classes than CIFAR-10's ten.
    """
    table, _ = collection.canonical(_published(side))
    images = np.stack([codec.decode(data).pixels for data in records.image_bytes(table)])
    return images, np.array([CLASSES.index(name) for name in table["class"].to_pylist()], np.int64)


def revision() -> str:
    """Short hash of the real training images as published, and of their classes; computed once per process.

    Raises:
        DataNotFoundError, ConfigurationError: as `read`.
    """
    return _revision(settings().data)


@cache
def _revision(location: str | None) -> str:
    table = _published("train")
    digest = hashlib.sha256()
    for data, name in zip(records.image_bytes(table), table["class"].to_pylist(), strict=True):
        digest.update(hashlib.sha256(data or b"").digest() + name.encode())
    return digest.hexdigest()[:12]


def _published(side: Side) -> pa.Table:
    source = resolve()
    table = source.read(side, REAL)
    if unknown := set(table["class"].to_pylist()) - set(CLASSES):
        raise ConfigurationError(f"{source.location}: class {min(unknown)!r} is not one of CIFAR-10's ten")
    return table
