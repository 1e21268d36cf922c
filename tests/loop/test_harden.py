"""A generator's images: measured, half of them added to training, the other half held apart."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cifake_core.bundle import Detector
from cifake_core.errors import ConfigurationError, DataNotFoundError, ImageRejectedError
from cifake_core.generation.generators import Request, named, open_backend
from cifake_core.images import codec, dataset, records
from cifake_core.loop import harden
from cifake_core.registry.artifacts import ModelVersion
from cifake_core.settings import CLASSES
from cifake_core.validation import gate
from tests.tiny_bundle import write_tiny_bundle


@pytest.fixture
def base(store, make_dataset):
    return make_dataset(store)


@pytest.fixture
def champion(base, tmp_path, monkeypatch):
    """Version 4, served from a bundle on disk: the registry itself is another room's."""
    bundle = write_tiny_bundle(tmp_path / "bundle")
    version = ModelVersion(name="cifake-detector", version=4, run_id="r", dataset_version=base.version)
    monkeypatch.setattr(harden, "resolve", lambda _: version)
    monkeypatch.setattr(harden, "fetch", lambda _: bundle)
    return Detector(bundle)


@pytest.fixture
def folder(tmp_path, rng):
    """Thirty PNGs, two of them the same picture."""
    made = tmp_path / "images"
    made.mkdir()
    pixels = rng.integers(0, 256, (29, 48, 48, 3), np.uint8)
    for index, each in enumerate([*pixels, pixels[0]]):
        Image.fromarray(each).save(made / f"{index}.png")
    return made


def test_images_are_split_once_and_none_is_in_both_parts(store, base, champion, folder):
    found = harden.prepare(str(folder), "ddpm", train_rows=10)
    assert (found["train_rows"], found["test_rows"], found["base"]) == (10, 19, base.version)
    made = dataset.load(store, found["dataset_version"])
    assert made.parent == base.version
    assert made.generators["train"]["ddpm"] == 10
    assert made.generators["test"]["ddpm"] == 19
    hashes = {split: set(records.content_hashes(dataset.read(store, made, split))) for split in dataset.SPLITS}
    assert not hashes["train"] & hashes["test"]
    old = {split: set(records.content_hashes(dataset.read(store, base, split))) for split in dataset.SPLITS}
    assert {split: len(old[split] - hashes[split]) for split in old} == {"train": 10, "validation": 0, "test": 19}
    assert made.counts == base.counts, "the new images take the place of as many old FAKE ones"
    assert harden.prepare(str(folder), "ddpm", train_rows=10) == found
    assert harden.prepare(str(folder), "ddpm", train_rows=10, seed=1) != found


def test_a_version_made_so_passes_the_gate_however_many_images_there_are(
    store, make_dataset, champion, tmp_path, real_data
):
    base = make_dataset(store, train_rows=800, test_rows=200)
    asked = [Request(CLASSES[seed % 10], None, seed) for seed in range(150)]
    drawn = [codec.encode(image) for image in open_backend(named("embedded")).draw(asked)]
    pq.write_table(pa.table({"image": drawn}), tmp_path / "embedded.parquet")
    found = harden.prepare(str(tmp_path / "embedded.parquet"), "other", base=base.version, train_rows=50)
    assert (found["train_rows"], found["test_rows"], found["unused"]) == (50, 40, 60)
    result = gate.validate(store, found["dataset_version"])
    # Crops of a few photographs are easily told from anything else: the offline sample's fault, not the version's.
    excused = set() if real_data else {"shortcuts.not_too_easy", "shortcuts.not_too_easy_with_size"}
    assert {failure.expectation for failure in result.failed} <= excused


def test_what_passes_today_is_measured_on_the_held_out_part_through_the_codec(store, champion, folder):
    found = harden.prepare(str(folder), "ddpm", train_rows=10)
    table = dataset.read(store, dataset.load(store, found["dataset_version"]), "test")
    rows = [row for row in table.to_pylist() if row["generator"] == "ddpm"]
    assert all(codec.is_canonical(row["image"]["bytes"]) for row in rows)
    pixels = np.stack([codec.decode(row["image"]["bytes"]).pixels for row in rows])
    accepted = int((champion.probability_real(pixels) >= 0.5).sum())
    before = found["before"]
    assert (before["model_version"], before["images"], before["accepted"]) == (4, 19, accepted)
    assert before["lower"] <= before["share"] <= before["upper"]


def test_a_report_separates_the_new_images_from_the_old(champion, folder):
    prepared = harden.prepare(str(folder), "ddpm", train_rows=10)
    found = harden.report(prepared["dataset_version"], "ddpm", "4", "4")
    assert found["before"] == found["after"] == prepared["before"]
    assert found["old_accuracy_change"] == 0


def test_parquet_of_plain_bytes_or_of_the_hub_layout_is_read_alike(champion, folder, tmp_path):
    data = [file.read_bytes() for file in sorted(folder.glob("*.png"))]
    pq.write_table(pa.table({"image": data}), tmp_path / "plain.parquet")
    pq.write_table(pa.table({"image": [{"bytes": each, "path": None} for each in data]}), tmp_path / "hub.parquet")
    names = [str(folder), str(tmp_path / "plain.parquet"), str(tmp_path / "hub.parquet")]
    assert len({harden.prepare(name, "ddpm")["dataset_version"] for name in names}) == 1


def test_what_makes_no_sense_is_refused(store, make_dataset, champion, folder, tmp_path):
    with pytest.raises(ConfigurationError, match="leaves none"):
        harden.prepare(str(folder), "ddpm", train_rows=29)
    with pytest.raises(ConfigurationError, match="has room for"):
        harden.prepare(str(folder), "ddpm", base=make_dataset(store, train_rows=60).version, train_rows=20)
    with pytest.raises(DataNotFoundError, match="neither"):
        harden.prepare(str(tmp_path / "nothing"), "ddpm")
    once = harden.prepare(str(folder), "ddpm")
    with pytest.raises(ConfigurationError, match="already"):
        harden.prepare(str(folder), "ddpm", base=once["dataset_version"])
    with pytest.raises(ConfigurationError, match="no test images"):
        harden.report(once["dataset_version"], "other", "4", "4")
    buffer = io.BytesIO()
    pq.write_table(pa.table({"picture": [b"x"]}), buffer)
    (tmp_path / "other.parquet").write_bytes(buffer.getvalue())
    with pytest.raises(DataNotFoundError, match="no column `image`"):
        harden.prepare(str(tmp_path / "other.parquet"), "ddpm")


@pytest.mark.parametrize("data", [b"PAR1 and no more", None])
def test_images_that_cannot_be_read_are_one_line(champion, tmp_path, data):
    file = tmp_path / "images.parquet"
    if data is None:
        pq.write_table(pa.table({"image": pa.array([None, None], pa.binary())}), file)
    else:
        file.write_bytes(data)
    with pytest.raises((DataNotFoundError, ImageRejectedError)):
        harden.prepare(str(file), "ddpm")
