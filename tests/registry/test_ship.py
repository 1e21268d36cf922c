"""The detector that ships: it answers before anything was registered, and is checked like any other."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from cifake_core import bundle
from cifake_core.errors import ConfigurationError, ModelError, NotRegisteredError
from cifake_core.registry import artifacts, ship
from cifake_core.settings import settings

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")


@pytest.fixture
def switched_off(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIFAKE_SHIPPED", "false")
    settings.cache_clear()


def test_a_whole_detector_ships_and_is_small() -> None:
    folder = artifacts.SHIPPED / bundle.ARTIFACT_PATH
    info = bundle.Detector(folder).info
    assert sum(file.stat().st_size for file in folder.iterdir()) < 11_000_000
    assert {"score.onnx", "explain.onnx", "CNN_model.h5", "reference.json"} <= info.sha256.keys()
    assert info.unsure
    assert info.unsure[0] <= info.threshold <= info.unsure[1]


def test_before_anything_is_registered_the_shipped_detector_is_champion(home: Path) -> None:
    version, folder = artifacts.fetched()
    assert version.version == 0
    assert version.dataset_version == bundle.Detector(folder).info.dataset_version


@pytest.mark.usefixtures("switched_off", "migrated")
def test_switched_off_there_is_no_champion_and_nothing_to_import() -> None:
    with pytest.raises(NotRegisteredError, match="has no alias 'champion'"):
        artifacts.fetched()
    with pytest.raises(ConfigurationError, match="CIFAKE_SHIPPED"):
        ship.import_shipped()


def test_a_damaged_one_is_refused(tmp_path: Path) -> None:
    folder = shutil.copytree(artifacts.SHIPPED / bundle.ARTIFACT_PATH, tmp_path / "detector")
    data = bytearray((folder / "score.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "score.onnx").write_bytes(data)
    with pytest.raises(ModelError, match=r"score\.onnx: SHA-256 differs"):
        bundle.Detector(folder)


def test_it_is_imported_as_a_version_once(home: Path) -> None:
    assert ship.import_shipped() == {"version": 1, "imported": True}
    assert ship.import_shipped() == {"version": 1, "imported": False}
    version = artifacts.resolve("1")
    found = bundle.Detector(artifacts.fetch(version))
    assert found.info == bundle.Detector(artifacts.SHIPPED / bundle.ARTIFACT_PATH).info
    assert version.tags["topology"] == found.info.topology


def test_the_threshold_is_where_validation_images_part_and_the_band_is_where_they_do_not() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([1, 0], 4000)
    scores = 1 / (1 + np.exp(-np.concatenate([rng.normal(3, 2, 4000), rng.normal(-1, 2, 4000)])))
    threshold, unsure, figures = ship.operating_point(labels, scores)
    assert 0.6 < threshold < 0.85  # the logits' middle, 1, is 0.73
    assert unsure[0] < threshold < unsure[1]
    assert figures["accuracy_of_answers"] > figures["balanced_accuracy"]
    assert 0.94 <= figures["answered"] <= 1


def test_where_nothing_is_doubtful_there_is_no_band() -> None:
    threshold, unsure, figures = ship.operating_point(np.array([1, 1, 0, 0]), np.array([0.9, 0.95, 0.1, 0.05]))
    assert 0.1 < threshold < 0.9
    assert unsure == (threshold, threshold)
    assert figures["accuracy_of_answers"] == 1
