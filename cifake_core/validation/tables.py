"""The tables that expectations speak about, all made from the feature table: what is in a version, counted."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from cifake_core.images import codec, dataset, records
from cifake_core.settings import CLASSES, LABELS
from cifake_core.storage import Store
from cifake_core.validation import drift, features, shortcuts
from cifake_core.validation.duplicates import near_duplicates

if TYPE_CHECKING:
    import pandas as pd

SHARDS = ("shard", "split", "rows", "rows_in_manifest", "as_recorded", "missing_columns", "unexpected_columns")
GROUPS = ("split", "label", "class", "rows", "even_share", "ratio_to_even")
SPLITS = (
    *("split", "rows", "share", "real_share", "exact_duplicates", "exact_duplicate_share", "in_another_split"),
    *("near_duplicates", "near_duplicate_share", "greyscale_fake", "greyscale_real", "greyscale_gap"),
    *("missing_generators", "generator_distance"),
)
COLUMNS = {
    "images": features.COLUMNS,
    "shards": SHARDS,
    "groups": GROUPS,
    "splits": SPLITS,
    "shortcuts": shortcuts.COLUMNS,
    "drift": drift.COLUMNS,
}
"""Table name → its columns: what an expectation may name."""


@dataclass(frozen=True)
class Shards:
    """The shards of a version as they lie in the store: rows by shard name, and the `shards` table about them."""

    tables: dict[str, pa.Table]
    facts: pd.DataFrame

    def images(self) -> list[bytes]:
        """Encoded images in row order; empty bytes where there is none."""
        return [data for table in self.tables.values() for data in features.encoded(table)]


def read_shards(store: Store, manifest: dataset.Manifest) -> Shards:
    """Every shard of a version, whatever its columns: what is wrong with them is for the expectations to say.

    Raises:
        DatasetError: a shard is not Parquet.
        StoreError: a shard is missing.
    """
    import pandas as pd

    tables, facts = {}, []
    for shard in manifest.shards:
        tables[shard.name], digest = features.read_shard(store, f"datasets/{manifest.version}/{shard.name}")
        facts.append(
            {
                "shard": shard.name,
                "split": shard.split,
                "rows_in_manifest": shard.rows,
                "as_recorded": digest == shard.sha256,
                **schema_facts(tables[shard.name]),
            }
        )
    return Shards(tables, pd.DataFrame(facts, columns=list(SHARDS)))


def schema_facts(table: pa.Table) -> dict[str, object]:
    """Rows, and the columns that are missing, of another type, or not in the row schema (None when there are none)."""
    right = {
        f.name for f in table.schema if f.name in records.SCHEMA.names and f.type == records.SCHEMA.field(f.name).type
    }
    return {
        "rows": table.num_rows,
        "missing_columns": ", ".join(n for n in records.SCHEMA.names if n not in right) or None,
        "unexpected_columns": ", ".join(n for n in table.column_names if n not in records.SCHEMA.names) or None,
    }


def build(
    names: Collection[str],
    images: pd.DataFrame,
    encoded: Callable[[int], bytes],
    reference: pd.DataFrame | None = None,
) -> dict[str, pd.DataFrame]:
    """The named tables made from the feature table; `drift` only where there is a reference.

    Args:
        images: the feature table.
        encoded: gives the encoded image of a `row`.
        reference: the feature table of another version to measure drift against.
    """
    makers: dict[str, Callable[[], pd.DataFrame]] = {
        "groups": lambda: groups(images),
        "splits": lambda: splits(images, encoded),
        "shortcuts": lambda: shortcuts.audit(images),
    }
    if reference is not None:
        makers["drift"] = lambda: drift.measure(images, reference)
    return {name: make() for name, make in makers.items() if name in names}


def groups(images: pd.DataFrame) -> pd.DataFrame:
    """Rows per split, label and class; `even_share` is what each would have were its split's rows spread evenly."""
    import pandas as pd

    index = pd.MultiIndex.from_product([_present(images), LABELS, CLASSES], names=["split", "label", "class"])
    rows = images.groupby(["split", "label", "class"]).size().reindex(index, fill_value=0).rename("rows").reset_index()
    rows["even_share"] = rows["split"].map(images.groupby("split").size()) / (len(LABELS) * len(CLASSES))
    rows["ratio_to_even"] = rows["rows"] / rows["even_share"]
    return rows[list(GROUPS)]


def splits(images: pd.DataFrame, encoded: Callable[[int], bytes]) -> pd.DataFrame:
    """One row for each of train, validation and test, also for those that are empty.

    `share` is of all rows. `exact_duplicates` counts rows whose bytes an earlier row of the split has,
    `in_another_split` rows whose bytes another split has too, `near_duplicates` rows of which train (or, for test,
    train or validation) holds the same picture moved or encoded again. `greyscale_gap` is the FAKE share less the REAL
    share. `generator_distance` is the total variation distance (0–1) of the generator mix from train's.
    """
    import pandas as pd

    near = _near(images, encoded)
    everywhere = images.groupby("content_hash")["split"].nunique()
    shared = images["content_hash"].map(everywhere) > 1
    mixes = {
        s: images.loc[(images["split"] == s) & (images["label"] == "FAKE"), "generator"].value_counts(normalize=True)
        for s in dataset.SPLITS
    }
    rows = []
    for split in dataset.SPLITS:
        part = images[images["split"] == split]
        n = len(part)
        copies = int(part["content_hash"].duplicated().sum())
        grey = part.groupby("label")["greyscale"].mean()
        fake, real = (float(grey.get(label, np.nan)) for label in LABELS)
        missing = sorted(set(images.loc[images["label"] == "FAKE", "generator"].dropna()) - set(mixes[split].index))
        rows.append(
            {
                "split": split,
                "rows": n,
                "share": n / max(1, len(images)),
                "real_share": (part["label"] == "REAL").mean() if n else np.nan,
                "exact_duplicates": copies,
                "exact_duplicate_share": copies / max(1, n),
                "in_another_split": int(shared[part.index].sum()),
                "near_duplicates": near[split],
                "near_duplicate_share": near[split] / max(1, n),
                "greyscale_fake": fake,
                "greyscale_real": real,
                "greyscale_gap": fake - real,
                "missing_generators": ", ".join(missing) or None,
                "generator_distance": float(mixes["train"].sub(mixes[split], fill_value=0).abs().sum() / 2),
            }
        )
    return pd.DataFrame(rows, columns=list(SPLITS))


def _present(images: pd.DataFrame) -> list[str]:
    there = set(images["split"])
    return [split for split in dataset.SPLITS if split in there]


def _near(images: pd.DataFrame, encoded: Callable[[int], bytes]) -> dict[str, int]:
    pictures = images[images["decodes"] & ~images["flat"] & ~images["black"]]
    parts = {split: pictures[pictures["split"] == split] for split in dataset.SPLITS}
    found: Mapping[str, set[int]] = {split: set() for split in dataset.SPLITS}
    for earlier, later in combinations(dataset.SPLITS, 2):
        sides = {"left": parts[later], "right": parts[earlier]}
        rows = {side: part["row"].to_numpy() for side, part in sides.items()}

        def luminance(side: str, index: np.ndarray, rows: dict[str, np.ndarray] = rows) -> np.ndarray:
            wanted, where = np.unique(rows[side][index], return_inverse=True)
            pixels = np.stack([codec.resize(features.decode(encoded(int(row)))) for row in wanted])
            return (pixels @ np.array([0.299, 0.587, 0.114], np.float32)).astype(np.float32)[where]

        left, right = (part["phash"].to_numpy(np.uint64) for part in sides.values())
        pairs = near_duplicates(left, right, luminance)
        bytes_of = {side: part["content_hash"].to_numpy() for side, part in sides.items()}
        copies = bytes_of["left"][pairs[:, 0]] == bytes_of["right"][pairs[:, 1]]
        found[later].update(rows["left"][pairs[~copies, 0]].tolist())
    return {split: len(hits) for split, hits in found.items()}
