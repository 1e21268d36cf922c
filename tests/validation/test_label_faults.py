"""Each fault of a label, a class, lineage or a shard in otherwise clean data is caught by its expectation."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

Row = dict[str, Any]
MADE_BY_US = {"source": "embedded", "generator": "latent-diffusion", "model_revision": "1", "seed": 1, "steps": 20}


def _swap(row: Row) -> None:
    row["label"] = 1 - row["label"]


def _named_otherwise(row: Row) -> None:
    row["image"]["path"] = f"train/{('FAKE', 'REAL')[row['label']]}/1000 (7).jpg"
    row["class"] = "cat"


def _unnamed(row: Row) -> None:
    row["image"]["path"] = "x.jpg"
    row["class"] = "unknown"


def _set(**values: Any) -> Callable[[Row], None]:
    return lambda row: row.update(values)


FAULTS: dict[str, tuple[str, Callable[[Row], bool], Callable[[Row], None]]] = {
    "no label": ("label_present", lambda row: True, _set(label=None)),
    "a third label": ("label_known", lambda row: True, _set(label=2)),
    "the other label": ("path_agrees_with_label", lambda row: True, _swap),
    "no class": ("class_present", lambda row: True, _set(**{"class": None})),
    "unheard-of class": ("class_known", lambda row: True, _set(**{"class": "zebra"})),
    "class misspelt": ("class_known", lambda row: row["class"] == "cat", _set(**{"class": "Cat"})),
    "class not said": ("class_named", lambda row: True, _unnamed),
    "file name of another class": ("path_agrees_with_class", lambda row: True, _named_otherwise),
    "no source": ("source_filled", lambda row: True, _set(source=None)),
    "FAKE without generator": ("generator_filled", lambda row: row["label"] == 0, _set(generator=None)),
    "REAL with generator": ("real_has_no_generator", lambda row: row["label"] == 1, _set(generator="resample")),
    "made without seed": ("seed_filled", lambda row: row["label"] == 0, _set(**MADE_BY_US | {"seed": None})),
    "made by no revision": (
        "model_revision_filled",
        lambda row: row["label"] == 0,
        _set(**MADE_BY_US | {"model_revision": None}),
    ),
    "made in no steps": ("steps_filled", lambda row: row["label"] == 0, _set(**MADE_BY_US | {"steps": 0})),
    "guidance NaN": (
        "guidance_is_a_number",
        lambda row: row["label"] == 0,
        _set(**MADE_BY_US | {"guidance": float("nan")}),
    ),
}


def test_each_row_of_faulty_lineage_is_caught_by_its_expectation(clean, write, run, rows_caught):
    rows = clean()
    spoilt: dict[str, int] = {}
    for fault, (_, wanted, spoil) in FAULTS.items():
        number = next(n for n, row in enumerate(rows["train"]) if n not in spoilt.values() and wanted(row))
        spoil(rows["train"][number])
        spoilt[fault] = number
    found = rows_caught(run(write(rows), "labels"))
    assert not {fault for fault, (name, *_) in FAULTS.items() if spoilt[fault] not in found.get(f"labels.{name}", ())}
    assert set().union(*found.values()) <= set(spoilt.values()), "clean rows are blamed"


def test_labels_swapped_in_one_class_refuse_the_version(clean, write, run, caught):
    rows = clean()
    for row in [row for part in rows.values() for row in part if row["class"] == "cat"]:
        _swap(row)
    result = run(write(rows), "labels")
    assert not result.success
    assert "labels.path_agrees_with_label" in caught(result)


def test_rows_made_by_us_pass_with_their_lineage(clean, write, run):
    rows = clean()
    for row in [row for part in rows.values() for row in part if row["label"] == 0]:
        row.update(MADE_BY_US, guidance=7.5)
    result = run(write(rows), "labels")
    assert result.success
    assert not result.warnings


RESHAPED: dict[str, tuple[str, Callable[[pa.Table], pa.Table]]] = {
    "renamed": ("no_column_missing", lambda t: t.rename_columns(["picture", *t.column_names[1:]])),
    "dropped": ("no_column_missing", lambda t: t.drop_columns(["seed"])),
    "of another type": (
        "no_column_missing",
        lambda t: t.set_column(1, "label", t["label"].cast(pa.string())),
    ),
    "of plain bytes": (
        "no_column_missing",
        lambda t: t.set_column(0, "image", pa.array([row["bytes"] for row in t["image"].to_pylist()])),
    ),
    "added": ("no_column_unexpected", lambda t: t.append_column("score", pa.array([0.5] * t.num_rows))),
}


@pytest.mark.parametrize("fault", RESHAPED)
def test_column_fault_refuses_the_version(clean, write, run, caught, fault):
    name, reshape = RESHAPED[fault]
    result = run(write(clean(), reshape), "shards")
    assert not result.success
    assert f"shards.{name}" in caught(result)


def test_shard_replaced_after_the_build_is_caught(clean, write, run, caught, store):
    rows = clean()
    manifest, other = write(rows), write({**rows, "train": rows["train"][1:]})
    name = next(shard.name for shard in manifest.shards if shard.split == "train")
    run(manifest, "shards")  # its features are cached now
    stolen = store.read(f"datasets/{other.version}/{name}")
    store.write(f"datasets/{manifest.version}/{name}", stolen)
    result = run(manifest, "shards", "images")
    assert caught(result) >= {"shards.bytes_as_recorded", "shards.rows_as_recorded"}
    assert not result.success


def test_features_of_a_damaged_shard_are_not_kept_for_the_right_one(clean, write, run, caught, store):
    rows = clean()
    right = write(rows)
    shard = next(shard for shard in right.shards if shard.split == "train")
    name = f"datasets/{right.version}/{shard.name}"
    good = store.read(name)
    rows["train"][0]["image"]["bytes"] = b"broken"
    bad = write(rows)
    store.write(name, store.read(f"datasets/{bad.version}/{shard.name}"))
    assert "shards.bytes_as_recorded" in caught(run(right, "shards"))
    store.write(name, good)
    assert hashlib.sha256(store.read(name)).hexdigest() == shard.sha256
    assert run(right, "images", "shards").success
