"""Bad rows set aside, never deleted: a quarantine shard with reasons, and a new version without them."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cifake_core.images import dataset
from cifake_core.storage import Store
from cifake_core.validation.checks import Outcome
from cifake_core.validation.tables import Shards

EXAMPLES = 12  # images kept in memory per reason, for the report


def reasons(outcomes: list[Outcome]) -> dict[int, str]:
    """Row → the first expectation whose failing rows are to be quarantined that it failed."""
    found: dict[int, str] = {}
    for outcome in outcomes:
        if outcome.quarantine and outcome.severity == "critical" and not outcome.success:
            for row in outcome.rows:
                found.setdefault(row, outcome.id)
    return dict(sorted(found.items()))


@dataclass(frozen=True)
class Quarantined:
    """Rows set aside; `url` is None when they were too many, and the version is refused whole."""

    rows: int
    reasons: dict[str, int]
    examples: list[tuple[bytes, str]]  # encoded image, reason
    url: str | None = None


def of(shards: Shards, bad: Mapping[int, str]) -> Quarantined:
    """What would be set aside, with up to EXAMPLES images per reason."""
    images, shown, examples = shards.images(), Counter[str](), []
    for row, reason in bad.items():
        shown[reason] += 1
        if shown[reason] <= EXAMPLES:
            examples.append((images[row], reason))
    return Quarantined(len(bad), dict(sorted(Counter(bad.values()).items())), examples)


def write(
    store: Store, manifest: dataset.Manifest, shards: Shards, bad: Mapping[int, str]
) -> tuple[Quarantined, dataset.Manifest]:
    """Write the bad rows with their reasons, then the version without them."""
    split_of = {shard.name: shard.split for shard in manifest.shards}
    whole = pa.concat_tables(shards.tables.values())
    splits = np.repeat([split_of[n] for n in shards.tables], [t.num_rows for t in shards.tables.values()])
    keep = np.ones(whole.num_rows, bool)
    keep[list(bad)] = False
    set_aside = whole.take(pa.array(list(bad)))
    set_aside = set_aside.append_column("split", pa.array(splits[~keep].tolist()))
    set_aside = set_aside.append_column("reason", pa.array(list(bad.values())))
    buffer = io.BytesIO()
    pq.write_table(set_aside, buffer, compression="zstd")
    name = f"validation/{manifest.version}/quarantine.parquet"
    store.write(name, buffer.getvalue())
    found = of(shards, bad)
    cleaned = dataset.write(
        store,
        {split: whole.filter(pa.array(keep & (splits == split))) for split in dataset.SPLITS},
        manifest.parameters,
        notes=manifest.notes,
        parent=manifest.version,
        removed=found.reasons,
    )
    return replace(found, url=store.url_of(name)), cleaned
