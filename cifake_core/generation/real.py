"""Real photographs as arrays, to train a generator on and to judge one by."""

from __future__ import annotations

import numpy as np

from cifake_core.errors import ConfigurationError
from cifake_core.images import codec, collection, records
from cifake_core.images.sources import Side, resolve
from cifake_core.settings import CLASSES, REAL


def read(side: Side) -> tuple[np.ndarray, np.ndarray]:
    """All real images of one side of the resolved source, through the codec.

    Returns (N, 32, 32, 3) uint8 and class indices (N,) int64 0 … 9.

    Raises:
        DataNotFoundError: no source, or no real images in it.
        ConfigurationError: it holds other classes than CIFAR-10's ten.
    """
    source = resolve()
    table, _ = collection.canonical(source.read(side, REAL))
    names = table["class"].to_pylist()
    if unknown := set(names) - set(CLASSES):
        raise ConfigurationError(f"{source.location}: class {min(unknown)!r} is not one of CIFAR-10's ten")
    images = np.stack([codec.decode(data).pixels for data in records.image_bytes(table)])
    return images, np.array([CLASSES.index(name) for name in names], np.int64)
