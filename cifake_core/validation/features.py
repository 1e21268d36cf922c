"""Features: one pass over a dataset version turns each image into a row that expectations can speak about.

Container facts come from the file's header, statistics from its pixels. Rows of a shard are computed once and kept in
CIFAKE_HOME's cache under the shard's own hash.
"""

from __future__ import annotations

import hashlib
import io
import logging
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import JpegImagePlugin

from cifake_core.errors import DatasetError, ImageRejectedError, OutOfReachError
from cifake_core.images import codec, dataset, records
from cifake_core.settings import LABELS, settings
from cifake_core.storage import Store
from cifake_core.validation import container, statistics
from cifake_core.verb import progress

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

VERSION = 3  # of this table; raise it when a column changes, and cached features are computed anew
BATCH = 2_000
PARALLEL_FROM = 8_000  # rows; below, starting workers costs more than they save

LINEAGE = tuple(name for name in records.SCHEMA.names if name not in ("image", "label", "class"))
COLUMNS = (
    *("row", "split", "position", "shard", "path", "path_label", "path_class", "path_number", "label", "class"),
    *LINEAGE,
    *("decodes", "rejected_because", "content_hash", "file_bytes"),
    *container.COLUMNS,
    *statistics.COLUMNS,
)


def of_version(store: Store, manifest: dataset.Manifest, workers: int = 2) -> pd.DataFrame:
    """The features of every row of a dataset version, one row per image, in row order.

    Raises:
        DatasetError: a shard is not Parquet. StoreError: a shard is missing. OutOfReachError: a worker was killed.
    """
    import pandas as pd

    tasks = [(store.url, f"datasets/{manifest.version}/{shard.name}") for shard in manifest.shards]
    fresh = sum(shard.rows for shard in manifest.shards if not _cached(shard.sha256).exists())
    if fresh >= PARALLEL_FROM and len(tasks) > 1 and workers > 1:
        try:
            with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
                files = list(progress(pool.map(_of_shard, tasks), "looking at images", len(tasks), "shard"))
        except BrokenProcessPool as exc:
            message = (
                "a process that looks at images was killed (out of memory?); run it again, finished shards are kept"
            )
            raise OutOfReachError(message) from exc
    else:
        files = [_of_shard(task) for task in progress(tasks, "looking at images", unit="shard")]
    parts = []
    for shard, file in zip(manifest.shards, files, strict=True):
        part = pd.read_parquet(file)
        part["split"], part["shard"] = shard.split, shard.name
        parts.append(part)
    return number(pd.concat(parts, ignore_index=True))


def read_shard(store: Store, name: str) -> tuple[pa.Table, str]:
    """A shard's rows, whatever their columns, and the SHA-256 of its bytes.

    Raises:
        DatasetError: not Parquet.
    """
    data = store.read(name)
    try:
        return pq.read_table(io.BytesIO(data)), hashlib.sha256(data).hexdigest()
    except (pa.ArrowInvalid, OSError) as exc:
        raise DatasetError(f"{store.url_of(name)}: not a readable Parquet file ({exc})") from exc


def encoded(table: pa.Table) -> list[bytes]:
    """A table's encoded images in row order; empty bytes where there is none."""
    return [data or b"" for data in _column(table, "image").combine_chunks().field("bytes").to_pylist()]


def number(frame: pd.DataFrame) -> pd.DataFrame:
    """Set `row` (in the version) and `position` (0 to 1 within the split) from the order of the rows."""
    frame = frame.reset_index(drop=True)
    frame["row"] = np.arange(len(frame))
    rank = frame.groupby("split").cumcount()
    frame["position"] = (rank + 0.5) / frame.groupby("split")["split"].transform("size")
    return frame[list(COLUMNS)]


def _cached(sha256: str) -> Path:
    return settings().cache / "features" / f"{sha256}-{VERSION}.parquet"


def _of_shard(task: tuple[str, str]) -> Path:
    """Features of one shard under the hash of the bytes it has now, which may not be the manifest's."""
    table, digest = read_shard(Store(task[0]), task[1])
    file = _cached(digest)
    if not file.exists():
        buffer = io.BytesIO()
        of_table(table).to_parquet(buffer, index=False)
        Store(file.parent.as_uri()).write(file.name, buffer.getvalue())
    return file


def of_table(table: pa.Table) -> pd.DataFrame:
    """The features of a table's rows. A column that the table lacks is empty: the `shards` table names it."""
    import pandas as pd

    contents = encoded(table)
    paths = _column(table, "image").combine_chunks().field("path").to_pylist()
    names = [container.read_path(path) for path in paths]
    labels = _column(table, "label").to_pylist()
    facts: dict[str, Any] = {
        "path": paths,
        "path_label": [label for label, _, _ in names],
        "path_class": [kind for _, kind, _ in names],
        "path_number": [number for _, _, number in names],
        "label": [LABELS[k] if k in (0, 1) else (None if k is None else str(k)) for k in labels],
        "class": _column(table, "class").to_pylist(),
        "content_hash": [hashlib.sha256(data).hexdigest() for data in contents],
        "file_bytes": [len(data) for data in contents],
        **{name: _column(table, name).to_pandas() for name in LINEAGE},
    }
    frame = pd.DataFrame({**facts, **container.describe(contents)})
    pixels = np.zeros((len(contents), codec.SIZE, codec.SIZE, 3), np.uint8)
    reasons: list[str | None] = []
    for index, data in enumerate(contents):
        try:
            pixels[index] = codec.resize(decode(data))
            reasons.append(None)
        except ImageRejectedError as exc:
            reasons.append(exc.reason)
    frame["rejected_because"] = pd.Series(reasons, dtype=object)
    frame["decodes"] = frame["rejected_because"].isna()
    parts = [statistics.measure(pixels[start : start + BATCH]) for start in range(0, len(pixels), BATCH)]
    for name in statistics.COLUMNS:
        frame[name] = np.concatenate([part[name] for part in parts]) if parts else []
        frame.loc[~frame["decodes"], name] = statistics.MISSING.get(name, np.nan)
    return frame


def _column(table: pa.Table, name: str) -> pa.ChunkedArray:
    kind = records.SCHEMA.field(name).type
    if name in table.column_names and table.schema.field(name).type.equals(kind):
        column = table[name]
        if pa.types.is_floating(kind):  # pandas makes no difference between NaN and null; a bound must see the NaN
            return pc.if_else(pc.is_nan(column), pa.scalar(-np.inf, kind), column)
        return column
    return pa.chunked_array([pa.nulls(table.num_rows, kind)])


def decode(data: bytes) -> np.ndarray:
    """An image's pixels, (H, W, 3) uint8.

    Raises:
        ImageRejectedError: as `codec.decode`.
    """
    # What one encoder wrote needs none of the codec's care for strangers' files, and is nearly every row.
    if codec.is_canonical(data):
        try:
            return np.asarray(JpegImagePlugin.JpegImageFile(io.BytesIO(data)))
        except OSError as exc:
            raise ImageRejectedError("corrupt", "the JPEG data is damaged or cut short") from exc
    return codec.decode(data).pixels
