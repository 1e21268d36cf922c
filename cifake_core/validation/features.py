"""Features: one pass over a dataset version turns each image into a row that expectations can speak about.

Container facts come from the file's header, statistics from its pixels. Rows of a shard are computed once and kept in
CIFAKE_HOME's cache under the shard's own hash.
"""

from __future__ import annotations

import hashlib
import io
import logging
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import JpegImagePlugin

from cifake_core.errors import ImageRejectedError
from cifake_core.images import codec, dataset, records
from cifake_core.settings import LABELS, settings
from cifake_core.storage import Store
from cifake_core.validation import container, statistics
from cifake_core.verb import progress

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

VERSION = 2  # of this table; raise it when a column changes, and cached features are computed anew
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
        DatasetError: a shard is missing or is not Parquet.
    """
    import pandas as pd

    folder = settings().cache / "features"
    files = [folder / f"{shard.sha256}-{VERSION}.parquet" for shard in manifest.shards]
    todo = [
        (store.url, f"datasets/{manifest.version}/{s.name}", str(f))
        for s, f in zip(manifest.shards, files, strict=True)
        if not f.exists()
    ]
    rows = sum(s.rows for s, f in zip(manifest.shards, files, strict=True) if not f.exists())
    if rows >= PARALLEL_FROM and len(todo) > 1 and workers > 1:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            list(progress(pool.map(_cache_shard, todo), "looking at images", total=len(todo), unit="shard"))
    else:
        for task in progress(todo, "looking at images", unit="shard"):
            _cache_shard(task)
    parts = []
    for shard, file in zip(manifest.shards, files, strict=True):
        part = pd.read_parquet(file)
        part["split"], part["shard"] = shard.split, shard.name
        parts.append(part)
    return number(pd.concat(parts, ignore_index=True))


def number(frame: pd.DataFrame) -> pd.DataFrame:
    """Set `row` (in the version) and `position` (0 to 1 within the split) from the order of the rows."""
    frame = frame.reset_index(drop=True)
    frame["row"] = np.arange(len(frame))
    rank = frame.groupby("split").cumcount()
    frame["position"] = (rank + 0.5) / frame.groupby("split")["split"].transform("size")
    return frame[list(COLUMNS)]


def _cache_shard(task: tuple[str, str, str]) -> None:
    url, name, file = task
    frame = of_table(pq.read_table(io.BytesIO(Store(url).read(name))))
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    Store(Path(file).parent.as_uri()).write(Path(file).name, buffer.getvalue())


def of_table(table: pa.Table) -> pd.DataFrame:
    """The features of a table's rows. A column that the table lacks is empty: the `shards` table names it."""
    import pandas as pd

    images = _column(table, "image", pa.struct({"bytes": pa.binary(), "path": pa.string()})).combine_chunks()
    contents = [data or b"" for data in images.field("bytes").to_pylist()]
    paths = images.field("path").to_pylist()
    names = [container.read_path(path) for path in paths]
    labels = _column(table, "label", pa.int64()).to_pylist()
    facts: dict[str, Any] = {
        "path": paths,
        "path_label": [label for label, _, _ in names],
        "path_class": [kind for _, kind, _ in names],
        "path_number": [number for _, _, number in names],
        "label": [LABELS[k] if k in (0, 1) else (None if k is None else str(k)) for k in labels],
        "class": _column(table, "class", pa.string()).to_pylist(),
        "content_hash": [hashlib.sha256(data).hexdigest() for data in contents],
        "file_bytes": [len(data) for data in contents],
        **{name: _column(table, name, records.SCHEMA.field(name).type).to_pandas() for name in LINEAGE},
    }
    frame = pd.DataFrame({**facts, **container.describe(contents)})
    pixels = np.zeros((len(contents), codec.SIZE, codec.SIZE, 3), np.uint8)
    reasons: list[str | None] = []
    for index, data in enumerate(contents):
        try:
            pixels[index] = codec.resize(_decode(data))
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


def _column(table: pa.Table, name: str, kind: pa.DataType) -> pa.ChunkedArray:
    if name in table.column_names and table.schema.field(name).type.equals(kind):
        return table[name]
    return pa.chunked_array([pa.nulls(table.num_rows, kind)])


def _decode(data: bytes) -> np.ndarray:
    # What one encoder wrote needs none of the codec's care for strangers' files, and is nearly every row.
    if codec.is_canonical(data):
        try:
            return np.asarray(JpegImagePlugin.JpegImageFile(io.BytesIO(data)))
        except OSError as exc:
            raise ImageRejectedError("corrupt", "the JPEG data is damaged or cut short") from exc
    return codec.decode(data).pixels
