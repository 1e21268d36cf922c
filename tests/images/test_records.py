import json

import pyarrow.parquet as pq
import pytest

from cifake_core.errors import DatasetError
from cifake_core.images import records

ROW = {"image": {"bytes": b"x", "path": "a.jpg"}, "label": 0, "class": "cat"}


def test_rows_come_back_from_a_shard_as_they_went_in(make_table):
    table = make_table(7)
    assert records.from_parquet(records.to_parquet(table)).equals(table)


def test_equal_tables_give_equal_bytes(make_table):
    table = make_table(50)
    rebuilt = records.make_table(table.to_pylist())
    assert records.to_parquet(table.slice(10, 30)) == records.to_parquet(rebuilt.slice(10, 30))


def test_a_shard_is_in_the_hub_image_layout(make_table, tmp_path):
    shard = tmp_path / "train-00000-of-00001.parquet"
    shard.write_bytes(records.to_parquet(make_table(3)))
    schema = pq.read_schema(shard)
    features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    assert list(features) == schema.names
    assert features["image"] == {"_type": "Image"}
    assert features["label"] == {"_type": "ClassLabel", "names": ["FAKE", "REAL"]}
    assert [field.name for field in schema.field("image").type] == ["bytes", "path"]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (ROW | {"colour": "red"}, "unknown column 'colour'"),
        ({k: v for k, v in ROW.items() if k != "label"}, "row without 'label'"),
        (ROW | {"label": "REAL"}, "does not fit the schema"),
        (ROW | {"seed": "seven"}, "does not fit the schema"),
    ],
)
def test_a_row_of_another_shape_is_refused(row, said):
    with pytest.raises(DatasetError, match=said):
        records.make_table([ROW, row])


@pytest.mark.parametrize("damage", [lambda d: d[: len(d) // 2], lambda d: b"", lambda d: b"not parquet" * 99])
def test_a_damaged_shard_is_named(make_table, damage):
    with pytest.raises(DatasetError, match=r"shard-7: not a readable Parquet file"):
        records.from_parquet(damage(records.to_parquet(make_table(3))), "shard-7")


def test_another_schema_is_refused_both_ways(make_table):
    table = make_table(3)
    with pytest.raises(DatasetError, match="expected"):
        records.from_parquet(_parquet(table.drop_columns(["seed"])))
    with pytest.raises(DatasetError, match="row schema"):
        records.to_parquet(table.drop_columns(["seed"]))


def _parquet(table) -> bytes:
    import io

    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "change",
    [{"label": 1}, {"class": "dog"}, {"prompt": "a cat"}, {"seed": 1}, {"image": {"bytes": b"y", "path": "a.jpg"}}],
)
def test_any_changed_column_changes_the_row_hash(change):
    plain, again, changed = (records.row_hashes(records.make_table([row]))[0] for row in (ROW, ROW, ROW | change))
    assert plain == again
    assert plain != changed
