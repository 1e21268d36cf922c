"""A version in which colour no longer tells the label: rows are matched, not weighted."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pyarrow as pa

from cifake_core.errors import ConfigurationError
from cifake_core.images import dataset
from cifake_core.storage import Store
from cifake_core.validation import features

COLOUR_BINS = 20


def _colour(images: pd.DataFrame) -> pd.Series:
    return pd.qcut(images["colourfulness"], COLOUR_BINS, labels=False, duplicates="drop").fillna(-1)


BALANCES: dict[str, Callable[[pd.DataFrame], pd.Series]] = {
    "greyscale": lambda images: images["greyscale"],
    "colourfulness": _colour,
}
"""Name → what must be equally frequent in FAKE and REAL rows of a split and class."""


def balance(store: Store, manifest: dataset.Manifest, what: str) -> dataset.Manifest:
    """A new version that holds, per split, class and kind of picture, as many FAKE as REAL rows.

    Of the label that has more, rows are kept in order of their content hash: chosen by nothing that the picture shows,
    wherever they stand, and equal inputs give one version.

    Raises:
        ConfigurationError: no such balance.
        DatasetError: the version's rows are not in the row schema, or none are left.
    """
    if what not in BALANCES:
        raise ConfigurationError(f"cannot balance {what!r}; known: {', '.join(BALANCES)}")
    images = features.of_version(store, manifest)
    images["kind"] = BALANCES[what](images)
    cell = ["split", "class", "kind"]
    counts = images.groupby([*cell, "label"]).size().unstack("label", fill_value=0)
    quota = counts.reindex(columns=["FAKE", "REAL"], fill_value=0).min(axis=1)
    rank = images.sort_values("content_hash").groupby([*cell, "label"]).cumcount()  # aligned with rows by its index
    keep = np.asarray(rank.sort_index() < pd.MultiIndex.from_frame(images[cell]).map(quota).to_numpy())
    return dataset.write(
        store,
        {
            split: dataset.read(store, manifest, split).filter(pa.array(keep[images["split"] == split]))
            for split in dataset.SPLITS
        },
        {**manifest.parameters, "balance": what},
        notes=manifest.notes,
        parent=manifest.version,
        removed={f"balance:{what}": int((~keep).sum())},
    )
