"""Averaging is over the copies it names, and is compared with the plain score image by image."""

from __future__ import annotations

import numpy as np
import pytest

from cifake_core.evaluation import averaging
from cifake_core.evaluation.testset import Scored, TestSet


@pytest.fixture
def images(rng: np.random.Generator) -> TestSet:
    pixels = rng.integers(0, 256, (40, 32, 32, 3), np.uint8)
    return TestSet("0" * 16, pixels, rng.integers(0, 2, 40), ["cat"] * 40, [None] * 40)


def corner(pixels: np.ndarray) -> np.ndarray:
    """The brightness of the pixel at the top left."""
    return pixels[:, 0, 0].mean(-1) / 255


def test_the_mean_is_of_the_image_its_mirror_image_and_four_shifts(images: TestSet) -> None:
    whole = Scored(images.labels, corner(images.images))
    flip, both = averaging.measure(corner, images, whole, 25)
    assert (flip.name, flip.views, flip.rows) == ("flip", 2, 40)
    assert (both.name, both.views, both.rows) == ("flip-and-shift", 6, 25)
    left, right = (images.images[:, 0, column].mean(-1) / 255 for column in (0, -1))
    flipped = ((left + right) / 2 >= 0.5) == images.labels
    assert flip.plain == whole.correct.mean()
    assert flip.averaged == flipped.mean()
    assert (flip.better, flip.worse) == ((flipped & ~whole.correct).sum(), (whole.correct & ~flipped).sum())
    below, beside = (images.images[:25, y, x].mean(-1) / 255 for y, x in ((1, 0), (0, 1)))
    # Shifted down or right, the repeated edge is at the corner.
    mean = (3 * left[:25] + right[:25] + below + beside) / 6
    assert both.averaged == ((mean >= 0.5) == images.labels[:25]).mean()


def test_a_score_that_is_the_same_for_all_copies_gains_nothing(images: TestSet) -> None:
    def flat(pixels: np.ndarray) -> np.ndarray:
        return np.full(len(pixels), 0.7)

    for average in averaging.measure(flat, images, Scored(images.labels, flat(images.images))):
        assert (average.averaged, average.better, average.worse) == (average.plain, 0, 0)


def test_a_shift_moves_what_is_in_the_image() -> None:
    image = np.zeros((1, 32, 32, 3), np.uint8)
    image[0, 10, 10] = 200
    for down, right in averaging.SHIFTS:
        moved = averaging.shift(image, down, right)
        assert np.argwhere(moved[0, ..., 0]).tolist() == [[10 + down, 10 + right]]
