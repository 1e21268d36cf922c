"""Dataset versions: immutable Parquet shards and a manifest, named by the hash of their rows.

In the store: `datasets/VERSION/{train,validation,test}-00000-of-00004.parquet` and, written last,
`datasets/VERSION/manifest.json`. A version without a manifest does not exist.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, ValidationError

from cifake_core.errors import DatasetError
from cifake_core.images import codec, records
from cifake_core.settings import LABELS, settings
from cifake_core.storage import Store
from cifake_core.verb import progress

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
ROWS_PER_SHARD = 20_000


class Shard(BaseModel, frozen=True):
    """One Parquet file of a version: name inside the version's folder, split, rows, SHA-256 of the file."""

    model_config = ConfigDict(extra="forbid")

    name: str
    split: Split
    rows: int
    sha256: str


class Manifest(BaseModel, frozen=True):
    """What a dataset version holds. Carries no clock, so that equal inputs give equal manifests."""

    model_config = ConfigDict(extra="forbid")

    format: Literal[1] = 1
    version: str
    rows: int
    counts: dict[str, dict[str, int]]  # split → label → rows
    generators: dict[str, dict[str, int]]  # split → generator → rows (FAKE)
    sources: dict[str, int]  # source → rows
    parameters: dict[str, Any]  # how it was assembled: seed, fractions, inputs
    notes: list[str] = []  # what a reader must know, e.g. that this is the offline sample
    parent: str | None = None  # the version this one was made from (quarantine, balance)
    removed: dict[str, int] = {}  # reason → rows taken out of the parent
    shards: list[Shard]


def write(
    store: Store,
    splits: Mapping[Split, pa.Table],
    parameters: Mapping[str, Any],
    *,
    notes: list[str] | None = None,
    parent: str | None = None,
    removed: Mapping[str, int] | None = None,
) -> Manifest:
    """Write a dataset version: shards first, the manifest last; a version that exists is returned as it is.

    Args:
        splits: one table in `records.SCHEMA` per split; row order is kept and is part of the version.

    Raises:
        DatasetError: no rows, or a table in another schema.
        StoreError: the store refuses a write; what was written so far is overwritten by the next try.
    """
    splits = {split: splits[split] for split in SPLITS if split in splits and splits[split].num_rows}
    if not splits:
        raise DatasetError("a dataset version needs at least one row")
    digest = hashlib.sha256()
    for split, table in splits.items():
        digest.update(split.encode())
        for row in records.row_hashes(table):
            digest.update(row)
    version = digest.hexdigest()[:16]
    if store.exists(f"datasets/{version}/manifest.json"):
        return load(store, version)
    shards = []
    todo = [
        (split, part, math.ceil(table.num_rows / ROWS_PER_SHARD), table.slice(part * ROWS_PER_SHARD, ROWS_PER_SHARD))
        for split, table in splits.items()
        for part in range(math.ceil(table.num_rows / ROWS_PER_SHARD))
    ]
    for split, part, parts, table in progress(todo, "writing shards", unit="shard"):
        data = records.to_parquet(table)
        name = f"{split}-{part:05d}-of-{parts:05d}.parquet"
        store.write(f"datasets/{version}/{name}", data)
        shards.append(Shard(name=name, split=split, rows=table.num_rows, sha256=hashlib.sha256(data).hexdigest()))
    manifest = Manifest(
        version=version,
        rows=sum(table.num_rows for table in splits.values()),
        counts={
            s: {LABELS[k]: n for k, n in sorted(Counter(t["label"].to_pylist()).items())} for s, t in splits.items()
        },
        generators={s: _count(t, "generator") for s, t in splits.items()},
        sources=dict(sum((Counter(_count(t, "source")) for t in splits.values()), Counter())),
        parameters=dict(parameters),
        notes=notes or [],
        parent=parent,
        removed=dict(removed or {}),
        shards=shards,
    )
    store.write(f"datasets/{version}/manifest.json", manifest.model_dump_json(indent=2).encode())
    return manifest


def _count(table: pa.Table, column: str) -> dict[str, int]:
    return dict(sorted(Counter(value for value in table[column].to_pylist() if value is not None).items()))


def versions(store: Store) -> list[str]:
    """The dataset versions of a store, by name."""
    return [name for name in store.list("datasets") if store.exists(f"datasets/{name}/manifest.json")]


def load(store: Store, version: str) -> Manifest:
    """A version's manifest.

    Raises:
        DatasetError: no such version, or a manifest this code cannot read.
    """
    name = f"datasets/{version}/manifest.json"
    if not store.exists(name):
        known = ", ".join(versions(store)) or "none yet; make one with `cifake data build`"
        raise DatasetError(f"no dataset version {version!r} in {store.url} (there: {known})")
    try:
        return Manifest.model_validate_json(store.read(name))
    except ValidationError as exc:
        raise DatasetError(
            f"{store.url_of(name)}: not a manifest this version of cifake reads ({exc.errors()[0]['msg']})"
        ) from exc


def read(store: Store, manifest: Manifest, split: Split) -> pa.Table:
    """The rows of one split, checked against the manifest; an empty table when the version has no such split.

    Raises:
        DatasetError: a shard's bytes are not those that the manifest recorded.
    """
    tables = []
    for shard in manifest.shards:
        if shard.split != split:
            continue
        name = f"datasets/{manifest.version}/{shard.name}"
        data = store.read(name)
        if hashlib.sha256(data).hexdigest() != shard.sha256:
            raise DatasetError(
                f"{store.url_of(name)}: bytes differ from the manifest; restore the shard or rebuild the version"
            )
        tables.append(records.from_parquet(data, name))
    return pa.concat_tables(tables) if tables else records.SCHEMA.empty_table()


def arrays(store: Store, manifest: Manifest, split: Split) -> tuple[np.ndarray, np.ndarray]:
    """A split decoded once: images (N, 32, 32, 3) uint8 (memory-mapped) and labels (N,) int64, in row order.

    Decoded pixels are kept in CIFAKE_HOME's cache under the version's name, so later runs start at once.

    Raises:
        DatasetError: as `read`; ImageRejectedError: a row is not a decodable image.
    """
    table = read(store, manifest, split)
    labels = table["label"].to_numpy()
    file = settings().cache / "pixels" / f"{manifest.version}-{split}.npy"
    if not file.exists():
        pixels = np.empty((table.num_rows, codec.SIZE, codec.SIZE, 3), np.uint8)
        for index, data in enumerate(progress(records.image_bytes(table), f"decoding {split}", unit="image")):
            pixels[index] = codec.resize(codec.decode(data).pixels)
        Store(file.parent.as_uri()).write(file.name, _npy(pixels))
    return np.load(file, mmap_mode="r"), labels


def _npy(array: np.ndarray) -> bytes:
    import io

    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()
