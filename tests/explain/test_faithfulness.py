"""Measures of faithfulness: a map of what the model really uses scores well, the reverse of it badly."""

from __future__ import annotations

import numpy as np
import pytest

from cifake_core.explain import faithfulness

INSIDE = (slice(None), slice(8, 16), slice(8, 16))


def patch_score(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A model that looks at one patch only: bright red there is REAL."""
    logits = images[INSIDE][..., 0].mean((1, 2)) / 255 * 12 - 6
    return logits, 1 / (1 + np.exp(-logits))


@pytest.fixture
def images(rng: np.random.Generator) -> np.ndarray:
    made = rng.integers(0, 60, (3, 32, 32, 3)).astype(np.uint8)
    made[INSIDE] = (255, 0, 0)
    return made


@pytest.fixture
def true_maps(images: np.ndarray) -> np.ndarray:
    maps = np.zeros(images.shape[:3], np.float32)
    maps[INSIDE] = 1
    return maps


REAL = np.ones(3, int)


def test_a_true_map_has_high_insertion_and_low_deletion(images: np.ndarray, true_maps: np.ndarray) -> None:
    true = faithfulness.insertion_deletion(patch_score, images, true_maps, REAL)
    false = faithfulness.insertion_deletion(patch_score, images, 1 - true_maps, REAL)
    assert (true.insertion > 0.9).all()
    assert (true.deletion < 0.1).all()
    assert (true.insertion - true.deletion > false.insertion - false.deletion + 0.5).all()


def test_the_other_target_turns_the_curves_around(images: np.ndarray, true_maps: np.ndarray) -> None:
    real = faithfulness.insertion_deletion(patch_score, images, true_maps, REAL)
    fake = faithfulness.insertion_deletion(patch_score, images, true_maps, 1 - REAL)
    np.testing.assert_allclose(real.insertion + fake.insertion, 1, atol=1e-5)


def test_road_prefers_the_true_map(images: np.ndarray, true_maps: np.ndarray) -> None:
    true = faithfulness.road(patch_score, images, true_maps, REAL)
    false = faithfulness.road(patch_score, images, 1 - true_maps, REAL)
    assert (true > 0.5).all()
    assert (false < 0).all()


def test_imputed_pixels_come_from_their_neighbours_and_the_others_stay(rng: np.random.Generator) -> None:
    gradient = np.broadcast_to(np.arange(0, 256, 8, np.uint8)[None, :, None], (32, 32, 3)).copy()
    hole = np.zeros((32, 32), bool)
    hole[10:14, 10:14] = True
    broken = gradient.copy()
    broken[hole] = 255
    mended = faithfulness.impute(broken, hole, noise=0)
    np.testing.assert_array_equal(mended[~hole], gradient[~hole])
    assert np.abs(mended[hole].astype(int) - gradient[hole]).max() <= 8
    assert faithfulness.impute(gradient, np.ones((32, 32), bool)).std() < 10


def test_agreement_is_one_with_itself_and_minus_one_with_its_reverse(rng: np.random.Generator) -> None:
    maps = rng.random((4, 8, 8)).astype(np.float32)
    found = faithfulness.agreement({"a": maps, "twice": 2 * maps, "reverse": -maps})
    assert found["a", "twice"] == pytest.approx(1)
    assert found["a", "reverse"] == pytest.approx(-1)


def test_evidence_outside_is_a_share(true_maps: np.ndarray) -> None:
    foreground = np.zeros(true_maps.shape, bool)
    foreground[:, :, 12:] = True
    np.testing.assert_allclose(faithfulness.evidence_outside(true_maps, foreground), 0.5)
    assert np.isnan(faithfulness.evidence_outside(np.zeros((1, 4, 4)), np.ones((1, 4, 4), bool))).all()
