"""The drill: ordinary traffic raises no alarm in twenty windows; unseen generators, blur and recompression do in two.

Real images, a real (small) detector, the same profile and window as the service uses.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmarks.drift import IMAGES, THRESHOLD, damaged, seen, values
from cifake_core.bundle import Detector
from cifake_core.images import codec
from cifake_core.monitoring import drift
from cifake_core.monitoring.window import Window
from tests.conftest import CHECKOUT

UNSEEN = CHECKOUT.parent / "shared/data/cross_generator/dev.parquet"


@pytest.fixture(scope="module")
def traffic(real_data: str | None) -> np.ndarray:
    """Images that neither training nor reference holds, half of each label, (N, 32, 32, 3)."""
    if not real_data or not (Path(real_data) / "test.parquet").is_file():
        pytest.skip("the drill needs real CIFAKE")
    return seen(Path(real_data) / "test.parquet", 4000 + 20 * IMAGES)


@pytest.fixture(scope="module")
def watch(trained_bundle: Path, traffic: np.ndarray):
    """`watch(images)`: which features alarm, window by window of IMAGES images."""
    detector = Detector(trained_bundle)
    profile = drift.reference_profile(values(detector, traffic[:4000]), 10)

    def alarms(images: np.ndarray) -> list[set[str]]:
        found = []
        for start in range(0, len(images) - IMAGES + 1, IMAGES):
            window = Window(profile, 900)
            window.add(values(detector, images[start : start + IMAGES]), 0)
            found.append({name for name, moved in window.moved(0).items() if moved.psi > THRESHOLD})
        return found

    return alarms


def test_ordinary_traffic_raises_no_alarm_in_twenty_windows(watch, traffic):
    assert watch(traffic[4000:]) == [set()] * 20


@pytest.mark.parametrize("damage", ["blurred", "recompressed"])
def test_damaged_traffic_raises_an_alarm_within_two_windows(watch, traffic, damage):
    assert any(watch(damaged(traffic[-2 * IMAGES :], damage)))


def test_traffic_of_a_generator_never_seen_raises_an_alarm_within_two_windows(watch):
    if not UNSEEN.is_file():
        pytest.skip("no tiles of other generators beside this checkout")
    rows = pq.read_table(UNSEEN)["image"].to_pylist()
    tiles = np.stack([codec.normalise(row["bytes"]).pixels for row in rows])
    tiles = tiles[np.random.default_rng(0).permutation(len(tiles))]
    assert any(watch(tiles[: 2 * IMAGES]))
