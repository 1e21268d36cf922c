"""A row: one encoded image, its label and class, and where it came from; Parquet in the Hugging Face image layout."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cifake_core.errors import DatasetError
from cifake_core.settings import LABELS

# The first three columns are the image and what it shows; the rest is lineage (null where it does not apply).
_COLUMNS: dict[str, tuple[pa.DataType, dict[str, Any]]] = {
    "image": (pa.struct({"bytes": pa.binary(), "path": pa.string()}), {"_type": "Image"}),
    "label": (pa.int64(), {"_type": "ClassLabel", "names": list(LABELS)}),
    "class": (pa.string(), {"_type": "Value", "dtype": "string"}),
    **{
        name: (kind, {"_type": "Value", "dtype": dtype})
        for name, kind, dtype in (
            ("source", pa.string(), "string"),  # the collection the row was read from, e.g. cifake, cifar10, embedded
            ("generator", pa.string(), "string"),  # the program that made the image; null for REAL
            ("model_revision", pa.string(), "string"),
            ("prompt", pa.string(), "string"),
            ("seed", pa.int64(), "int64"),
            ("steps", pa.int32(), "int32"),
            ("scheduler", pa.string(), "string"),
            ("guidance", pa.float32(), "float32"),
            ("resize_filter", pa.string(), "string"),
            ("encoder", pa.string(), "string"),
            ("safety_redraws", pa.int32(), "int32"),  # flagged images thrown away before this one was accepted
        )
    },
}
_FEATURES = {"info": {"features": {name: feature for name, (_, feature) in _COLUMNS.items()}}}
SCHEMA = pa.schema(
    [(name, kind) for name, (kind, _) in _COLUMNS.items()],
    metadata={"huggingface": json.dumps(_FEATURES)},
)


def make_table(rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Rows (dictionaries of SCHEMA's columns; lineage may be left out) as a table.

    Raises:
        DatasetError: an unknown column, a missing image, label or class, or a value of the wrong type.
    """
    rows = list(rows)
    for row in rows:
        if unknown := row.keys() - _COLUMNS.keys():
            raise DatasetError(f"unknown column {sorted(unknown)[0]!r}; columns are {', '.join(_COLUMNS)}")
        if missing := {"image", "label", "class"} - row.keys():
            raise DatasetError(f"row without {sorted(missing)[0]!r}")
    try:
        return pa.Table.from_pylist(rows, schema=SCHEMA)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as exc:
        raise DatasetError(f"a row does not fit the schema: {exc}") from exc


def to_parquet(table: pa.Table) -> bytes:
    """A shard's bytes; equal tables give equal bytes.

    Raises:
        DatasetError: the table is not in SCHEMA.
    """
    if not table.schema.equals(SCHEMA):
        raise DatasetError(f"table has columns {table.column_names}, not the row schema's {SCHEMA.names}")
    buffer = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(SCHEMA.metadata), buffer, compression="zstd", row_group_size=5000)
    return buffer.getvalue()


def from_parquet(data: bytes, name: str = "shard") -> pa.Table:
    """A shard's table.

    Raises:
        DatasetError: not Parquet, cut short, or another schema. `name` says which shard in the message.
    """
    try:
        table = pq.read_table(io.BytesIO(data))
    except (pa.ArrowInvalid, OSError) as exc:
        raise DatasetError(f"{name}: not a readable Parquet file ({exc})") from exc
    if not table.schema.equals(SCHEMA):
        found, wanted = ({f.name: str(f.type) for f in schema} for schema in (table.schema, SCHEMA))
        if table.column_names != SCHEMA.names:
            raise DatasetError(f"{name}: columns are {table.column_names}, expected {SCHEMA.names}")
        column = next((c for c in wanted if found[c] != wanted[c]), SCHEMA.names[0])
        raise DatasetError(f"{name}: column {column} is {found[column]}, expected {wanted[column]}")
    return table


def image_bytes(table: pa.Table) -> list[bytes]:
    """The encoded images of a table, in row order."""
    return table["image"].combine_chunks().field("bytes").to_pylist()  # type: ignore[no-any-return]


def content_hashes(table: pa.Table) -> list[str]:
    """SHA-256 of each encoded image, hexadecimal."""
    return [hashlib.sha256(data or b"").hexdigest() for data in image_bytes(table)]


def row_hashes(table: pa.Table) -> list[bytes]:
    """A digest per row over every column: equal exactly when the rows are equal."""
    contents = content_hashes(table)
    paths = table["image"].combine_chunks().field("path").to_pylist()
    rest = table.drop_columns(["image"]).to_pylist()
    return [
        hashlib.sha256(json.dumps([content, path, row], sort_keys=True).encode()).digest()
        for content, path, row in zip(contents, paths, rest, strict=True)
    ]
