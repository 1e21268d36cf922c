import numpy as np
import pytest

from cifake_core.errors import DatasetError
from cifake_core.images import codec, dataset, records
from cifake_core.storage import Store


@pytest.fixture
def splits(make_table):
    table = make_table(60)
    return {"train": table.slice(0, 40), "validation": table.slice(40, 10), "test": table.slice(50)}


def test_a_version_holds_its_rows_in_order(store, splits):
    manifest = dataset.write(store, splits, {"seed": 3})
    for split, table in splits.items():
        assert dataset.read(store, manifest, split).equals(table)
    assert dataset.load(store, manifest.version) == manifest
    assert manifest.rows == 60
    assert manifest.counts["train"] == {"FAKE": 20, "REAL": 20}
    assert manifest.generators["test"] == {"noise": 5}
    assert manifest.parameters == {"seed": 3}


def test_the_version_follows_from_the_rows_alone(store, splits, tmp_path):
    elsewhere = Store((tmp_path / "elsewhere").as_uri())
    first = dataset.write(store, splits, {"seed": 1})
    assert dataset.write(elsewhere, splits, {"seed": 1}) == first
    assert dataset.write(elsewhere, splits, {"seed": 1, "by": "another way"}).version == first.version


@pytest.mark.parametrize("change", ["drop a row", "swap two rows", "move a row to another split", "another label"])
def test_any_other_rows_make_another_version(store, splits, change):
    version = dataset.write(store, splits, {}).version
    train, validation = splits["train"], splits["validation"]
    changed = {
        "drop a row": {"train": train.slice(1)},
        "swap two rows": {"train": train.take([1, 0, *range(2, 40)])},
        "move a row to another split": {
            "train": train.slice(0, 39),
            "validation": records.make_table(train.slice(39).to_pylist() + validation.to_pylist()),
        },
        "another label": {
            "train": records.make_table([row | {"label": 1 - row["label"]} for row in train.to_pylist()]),
        },
    }[change]
    assert dataset.write(store, splits | changed, {}).version != version


def test_a_version_that_exists_is_never_rewritten(store, splits):
    manifest = dataset.write(store, splits, {"seed": 1})
    shard = store.path(f"datasets/{manifest.version}/{manifest.shards[0].name}")
    store.write(f"datasets/{manifest.version}/{manifest.shards[0].name}", b"marked")
    assert dataset.write(store, splits, {"seed": 2}) == manifest
    with open(shard, "rb") as file:
        assert file.read() == b"marked"


def test_large_splits_are_cut_into_shards(store, splits, monkeypatch):
    monkeypatch.setattr(dataset, "ROWS_PER_SHARD", 15)
    manifest = dataset.write(store, splits, {})
    train = [shard for shard in manifest.shards if shard.split == "train"]
    assert [(shard.name, shard.rows) for shard in train] == [
        ("train-00000-of-00003.parquet", 15),
        ("train-00001-of-00003.parquet", 15),
        ("train-00002-of-00003.parquet", 10),
    ]
    assert dataset.read(store, manifest, "train").equals(splits["train"])


@pytest.mark.parametrize("damage", [lambda d: d[:-1], lambda d: d[:50] + bytes([d[50] ^ 1]) + d[51:]])
def test_a_damaged_shard_is_detected(store, splits, damage):
    manifest = dataset.write(store, splits, {})
    name = f"datasets/{manifest.version}/{manifest.shards[0].name}"
    store.write(name, damage(store.read(name)))
    with pytest.raises(DatasetError, match=r"bytes differ from the manifest; restore"):
        dataset.read(store, manifest, "train")


def test_a_version_without_a_manifest_does_not_exist(store, splits):
    manifest = dataset.write(store, splits, {})
    assert dataset.versions(store) == [manifest.version]
    store.delete(f"datasets/{manifest.version}/manifest.json")
    assert dataset.versions(store) == []
    with pytest.raises(DatasetError, match=r"no dataset version .* make one with `cifake data build`"):
        dataset.load(store, manifest.version)
    assert dataset.write(store, splits, {}) == manifest


def test_a_manifest_with_unknown_keys_is_refused(store, splits):
    manifest = dataset.write(store, splits, {})
    name = f"datasets/{manifest.version}/manifest.json"
    store.write(name, store.read(name).replace(b'"rows"', b'"lines"', 1))
    with pytest.raises(DatasetError, match="not a manifest this version of cifake reads"):
        dataset.load(store, manifest.version)


def test_no_rows_make_no_version(store):
    with pytest.raises(DatasetError, match="at least one row"):
        dataset.write(store, {"train": records.SCHEMA.empty_table()}, {})
    assert store.list("datasets") == []


def test_arrays_are_the_decoded_rows(store, splits):
    manifest = dataset.write(store, splits, {})
    for _cached in (False, True):
        images, labels = dataset.arrays(store, manifest, "validation")
        expected = [codec.decode(data).pixels for data in records.image_bytes(splits["validation"])]
        np.testing.assert_array_equal(images, expected)
        assert images.dtype == np.uint8
        assert labels.tolist() == splits["validation"]["label"].to_pylist()
