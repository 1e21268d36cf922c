"""A version in which a simple statistic no longer tells the label: rows are matched, not weighted."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa

from cifake_core.errors import ConfigurationError
from cifake_core.images import dataset
from cifake_core.storage import Store
from cifake_core.validation import features

BALANCES = ("greyscale",)


def balance(store: Store, manifest: dataset.Manifest, what: str) -> dataset.Manifest:
    """A new version that holds, per split and class, as many greyscale and as many colour rows of either label.

    Of the label that has more, the first in row order are kept (rows are shuffled): equal inputs give one version.

    Raises:
        ConfigurationError: no such balance.
        DatasetError: the version's rows are not in the row schema.
    """
    if what not in BALANCES:
        raise ConfigurationError(f"cannot balance {what!r}; known: {', '.join(BALANCES)}")
    images = features.of_version(store, manifest)
    cell = ["split", "class", "greyscale"]
    counts = images.groupby([*cell, "label"]).size().unstack("label", fill_value=0)
    quota = counts.reindex(columns=["FAKE", "REAL"], fill_value=0).min(axis=1)
    rank = images.groupby([*cell, "label"]).cumcount()
    keep = (rank < pd.MultiIndex.from_frame(images[cell]).map(quota).to_numpy()).to_numpy()
    return dataset.write(
        store,
        {
            split: dataset.read(store, manifest, split).filter(pa.array(np.asarray(keep[images["split"] == split])))
            for split in dataset.SPLITS
        },
        {**manifest.parameters, "balance": what},
        notes=manifest.notes,
        parent=manifest.version,
        removed={f"balance:{what}": int((~keep).sum())},
    )
