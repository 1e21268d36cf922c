"""A collection: canonical rows in the store, before they are split. What `data collect` and `generate` hand on.

Any folder of Parquet files in `records.SCHEMA` whose names start with `train-` or `test-`: the side the rows are for.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, ValidationError

from cifake_core.errors import DataNotFoundError, DatasetError, ImageRejectedError
from cifake_core.images import codec, records
from cifake_core.images.sources import SIDES, Side
from cifake_core.storage import Store
from cifake_core.verb import progress

ROWS_PER_FILE = 20_000
NOTES_FILE = "collection.json"
PLAN_FILE = "plan.json"


class Collection(BaseModel, frozen=True):
    """Where a collection is and what it holds. `notes` go on into the manifest of whatever is built from it."""

    model_config = ConfigDict(extra="forbid")

    rows_url: str
    rows: int
    left_out: dict[str, int] = {}  # reason → rows
    notes: list[str] = []


def write(
    store: Store,
    name: str,
    sides: Mapping[Side, pa.Table],
    notes: tuple[str, ...] = (),
    left_out: Mapping[str, int] | None = None,
) -> Collection:
    """Write canonical rows as the collection `collections/NAME-HASH`; equal rows get the same name.

    Raises:
        StoreError: the store refuses a write.
    """
    digest = hashlib.sha256()
    for side in SIDES:
        digest.update(side.encode())
        for row in records.row_hashes(sides[side]) if side in sides else ():
            digest.update(row)
    folder = f"collections/{name}-{digest.hexdigest()[:12]}"
    for side, table in sides.items():
        for part, start in enumerate(range(0, table.num_rows, ROWS_PER_FILE)):
            data = records.to_parquet(table.slice(start, ROWS_PER_FILE))
            store.write(f"{folder}/{side}-{part:05d}.parquet", data)
    collection = Collection(
        rows_url=store.url_of(folder),
        rows=sum(table.num_rows for table in sides.values()),
        left_out=dict(left_out or {}),
        notes=list(notes),
    )
    store.write(f"{folder}/{NOTES_FILE}", collection.model_dump_json(indent=2).encode())
    return collection


def read(url: str) -> tuple[dict[Side, pa.Table], list[str]]:
    """A collection's rows by side, and its notes.

    Raises:
        DataNotFoundError: no Parquet files there that start with `train-` or `test-`, or not all of its plan.
        DatasetError: a file is damaged or in another schema.
    """
    store = Store(url)
    files = [name for name in store.list() if name.endswith(".parquet")]
    tables = {
        side: [
            records.from_parquet(store.read(name), store.url_of(name)) for name in files if name.startswith(f"{side}-")
        ]
        for side in SIDES
    }
    if not any(tables.values()):
        raise DataNotFoundError(f"{url}: no collection there (no train-*.parquet or test-*.parquet)")
    if missing := _planned(store) - set(files):
        raise DataNotFoundError(
            f"{url}: {len(missing)} of {len(missing) + len(files)} shards are not drawn yet; "
            f"`cifake generate run --plan {url.rstrip('/').rsplit('/', 1)[-1]}` draws them"
        )
    return {side: pa.concat_tables(parts) for side, parts in tables.items() if parts}, _notes(store)


def _planned(store: Store) -> set[str]:
    """The files that a generation's plan asks for; none where there is no plan."""
    if not store.exists(PLAN_FILE):
        return set()
    return {f"{shard['name']}.parquet" for shard in json.loads(store.read(PLAN_FILE))["shards"]}


def _notes(store: Store) -> list[str]:
    if not store.exists(NOTES_FILE):
        return []
    try:
        return Collection.model_validate_json(store.read(NOTES_FILE)).notes
    except ValidationError as exc:
        raise DatasetError(f"{store.url_of(NOTES_FILE)}: not a collection's notes; collect it again") from exc


def canonical(table: pa.Table, skip_rejected: bool = False) -> tuple[pa.Table, Counter[str]]:
    """All images brought to the canonical form by the one codec; those already in it keep their bytes.

    Fills `encoder`, `resize_filter` where this codec resized, and gives re-encoded images a `.jpg` path.

    Args:
        skip_rejected: leave refused images out, and count them by reason, rather than raise.

    Raises:
        ImageRejectedError: an image was refused; the message names its path.
    """
    images = table["image"].to_pylist()
    filters = table["resize_filter"].to_pylist()
    keep, refused = [], Counter[str]()
    for index, image in enumerate(progress(images, "checking images", unit="image")):
        try:
            normalised = codec.normalise(image["bytes"] or b"")
        except ImageRejectedError as exc:
            if not skip_rejected:
                raise ImageRejectedError(
                    exc.reason, f"{image['path']}: {exc}; remove it, or leave such images out with --skip-rejected"
                ) from exc
            refused[exc.reason] += 1
            continue
        keep.append(index)
        if normalised.reencoded:
            stem = (image["path"] or str(index)).rsplit(".", 1)[0]
            images[index] = {"bytes": normalised.jpeg, "path": f"{stem}.jpg"}
        if normalised.resized:
            filters[index] = codec.RESIZE_FILTER
    columns = {
        "image": pa.array(images, records.SCHEMA.field("image").type),
        "resize_filter": pa.array(filters, pa.string()),
        "encoder": pc.fill_null(table["encoder"], codec.ENCODER),
    }
    for column, values in columns.items():
        table = table.set_column(records.SCHEMA.get_field_index(column), records.SCHEMA.field(column), values)
    return table.take(pa.array(keep, pa.int64())) if refused else table, refused
