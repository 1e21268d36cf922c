"""FAKE images that exist already: the published CIFAKE, and the offline sample's resampled crops."""

from __future__ import annotations

from cifake_core.errors import DataNotFoundError
from cifake_core.images import assemble
from cifake_core.images.collection import Collection
from cifake_core.images.sample import OfflineSample
from cifake_core.images.sources import Source, resolve
from cifake_core.settings import FAKE
from cifake_core.storage import Store

NAMES = ("cifake", "resample")


def collect(store: Store, name: str, train_rows: int | None, test_rows: int | None, seed: int) -> Collection:
    """FAKE rows of the resolved CIFAKE source (`cifake`) or of the offline sample (`resample`) as a collection.

    Raises:
        DataNotFoundError: no CIFAKE where images are looked for, or too few images in it.
    """
    return assemble.collect(store, FAKE, train_rows, test_rows, seed, source=_source(name))


def _source(name: str) -> Source:
    if name == "resample":
        return OfflineSample()
    source = resolve()
    if isinstance(source, OfflineSample):
        raise DataNotFoundError(
            "no published CIFAKE images: set CIFAKE_DATA to CIFAKE, or use --generator embedded or resample"
        )
    return source
