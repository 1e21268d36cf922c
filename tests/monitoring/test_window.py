import numpy as np
import pytest

from cifake_core.monitoring import drift, features
from cifake_core.monitoring.intervals import wilson
from cifake_core.monitoring.window import SLOTS, Window, empty


@pytest.fixture
def profile(rng):
    return drift.reference_profile({"a": rng.normal(size=2000), "b": rng.uniform(size=2000)}, bins=10)


def test_a_window_holds_what_came_within_its_length_and_forgets_the_rest(profile, rng):
    window = Window(profile, seconds=150)
    window.add({"a": rng.normal(size=30), "b": rng.uniform(size=30)}, now=1000)
    window.add({"a": rng.normal(size=12)}, now=1100)
    assert {name: moved.values for name, moved in window.moved(1100).items()} == {"a": 42, "b": 30}
    assert window.moved(1160)["a"].values == 12
    assert window.moved(1300)["a"].values == 0


def test_a_slot_that_comes_round_again_starts_empty(profile, rng):
    window = Window(profile, seconds=SLOTS)
    for now in range(10 * SLOTS):
        window.add({"a": rng.normal(size=5)}, now)
    assert window.moved(10 * SLOTS - 1)["a"].values == 5 * SLOTS


def test_windows_of_several_processes_add_up(profile, rng):
    values = rng.normal(1, 1, 600)
    alone = Window(profile, 60)
    alone.add({"a": values}, 5)
    one, two = (Window(profile, 60, empty(profile)) for _ in range(2))
    one.add({"a": values[:200]}, 5)
    two.add({"a": values[200:]}, 5)
    assert one.moved(5, [two.array]) == alone.moved(5)
    assert one.moved(5, [two.array])["a"].psi > 0.25


def test_the_same_distribution_stays_and_a_shift_shows(profile, rng):
    same, moved = Window(profile, 60), Window(profile, 60)
    same.add({"a": rng.normal(size=500)}, 0)
    moved.add({"a": rng.normal(0.8, 1, size=500)}, 0)
    assert same.moved(0)["a"].psi < 0.1 < 0.25 < moved.moved(0)["a"].psi
    assert same.moved(0)["a"].ks < 0.1 < 0.25 < moved.moved(0)["a"].ks


def test_features_see_blur_compression_and_colour(rng):
    y, x = np.mgrid[:32, :32]
    sharp = np.where((x + y) % 2, 255, 0).astype(np.uint8)
    flat = np.full((32, 32), 128, np.uint8)
    blocks = ((x // 8 + y // 8) % 2 * 100).astype(np.uint8)
    red = np.stack([flat, flat * 0, flat * 0], -1)
    pixels = np.stack([*(np.stack([plane] * 3, -1) for plane in (sharp, flat, blocks)), red])
    found = features.measure(pixels)
    assert tuple(found) == features.FEATURES
    assert found["high_frequency"][0] > 0.9 > found["high_frequency"][2]
    assert found["edge_energy"].argmax() == 0
    assert found["blockiness"].argmax() == 2
    assert found["colourfulness"].tolist() == [0, 0, 0, 128]
    assert found["contrast"][1] == 0
    assert found["brightness"][1] == pytest.approx(128, abs=0.01)


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (7, 10), (10, 10), (960, 1000)])
def test_wilson_agrees_with_scipy(successes, trials):
    from scipy.stats import binomtest

    expected = binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    assert wilson(successes, trials) == pytest.approx((expected.low, expected.high), abs=1e-4)
