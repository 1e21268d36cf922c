"""Slices say which images they hold; damages do what their names say."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from cifake_core.evaluation import testset
from cifake_core.evaluation.slices import DAMAGES, apply, damaged_in_turn, slices
from cifake_core.evaluation.testset import TestSet, Tiles


@pytest.fixture
def images(rng: np.random.Generator) -> np.ndarray:
    """Twelve smooth images (12, 32, 32, 3)."""
    small = rng.integers(40, 216, (12, 4, 4, 3), np.uint8)
    return np.stack([np.asarray(Image.fromarray(i).resize((32, 32), Image.Resampling.BICUBIC)) for i in small])


def _change(images: np.ndarray, name: str) -> float:
    return float(np.abs(apply(images, DAMAGES[name]).astype(float) - images).mean())


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damage_changes_pixels_and_nothing_else_about_them(images: np.ndarray, name: str) -> None:
    before = images.copy()
    damaged = apply(images, DAMAGES[name])
    assert (damaged.shape, damaged.dtype) == (images.shape, np.uint8)
    assert not np.array_equal(damaged, images)
    assert np.array_equal(apply(images, DAMAGES[name]), damaged)  # the same for every model
    assert np.array_equal(images, before)


def test_a_larger_amount_damages_more(images: np.ndarray) -> None:
    for milder, harder in (("jpeg-95", "jpeg-30"), ("blur-0.5", "blur-2"), ("noise-0.02", "noise-0.05")):
        assert _change(images, milder) < _change(images, harder)


def test_noise_and_brightness_have_the_size_they_name() -> None:
    grey = np.full((50, 32, 32, 3), 100, np.uint8)
    assert apply(grey, DAMAGES["noise-0.05"]).std() == pytest.approx(0.05 * 255, rel=0.02)
    assert np.unique(apply(grey, DAMAGES["darker"])).tolist() == [70]
    assert np.unique(apply(np.full_like(grey, 250), DAMAGES["brighter"])).tolist() == [255]


def test_greyscale_is_pillows(images: np.ndarray) -> None:
    damaged = apply(images, DAMAGES["greyscale"]).astype(int)
    assert (damaged == damaged[..., :1]).all()
    expected = np.stack([np.asarray(Image.fromarray(i).convert("L")) for i in images]).astype(int)
    assert np.abs(damaged[..., 0] - expected).max() <= 1


def test_a_crop_keeps_the_middle() -> None:
    image = np.zeros((1, 32, 32, 3), np.uint8)
    image[:, 2:30, 2:30] = 200
    assert (apply(image, DAMAGES["crop-28"]) == 200).all()


def test_jpeg_is_what_pillow_writes_at_that_quality(images: np.ndarray) -> None:
    buffer = io.BytesIO()
    Image.fromarray(images[0]).save(buffer, "JPEG", quality=50, subsampling="4:2:0")
    assert np.array_equal(apply(images[:1], DAMAGES["jpeg-50"])[0], np.asarray(Image.open(buffer)))


def test_in_turn_every_damage_has_its_share(images: np.ndarray) -> None:
    many = np.concatenate([images] * 3)
    found = damaged_in_turn(many, 7)
    for turn, steps in enumerate(DAMAGES.values()):
        every = np.s_[turn :: len(DAMAGES)]
        np.testing.assert_array_equal(found[every], apply(many[every], steps, 7))
    assert (found != many).any((1, 2, 3)).all()


def test_slices_cover_classes_generators_and_damages() -> None:
    classes = ["cat", "ship", "cat", "tram"]
    generators = ["embedded", None, None, "cifake"]
    parts = {part.name: part.rows.tolist() for part in slices(classes, generators, damage_rows=3)}
    assert parts["class:cat"] == [0, 2]
    assert parts["class:tram"] == [3]  # a class that CIFAR-10 has not got
    assert "class:dog" not in parts
    assert parts["generator:embedded"] == [0]
    assert parts["generator:cifake"] == [3]
    assert {name for name in parts if name.startswith("damage:")} == {f"damage:{name}" for name in DAMAGES}
    assert parts["damage:greyscale"] == [0, 1, 2]


def test_a_score_that_is_fooled_by_one_damage_is_found_out(images: np.ndarray) -> None:
    """REAL images are coloured, FAKE are grey: taking the colour away fools the score on REAL only."""
    labels = np.arange(12) % 2
    grey = apply(images, DAMAGES["greyscale"])
    mixed = np.where(labels[:, None, None, None] == 1, images, grey)
    tiles = Tiles(grey[:3], np.array(["a", "b", "a"], dtype=object), np.array(["gan"] * 3, dtype=object))
    whole = TestSet("0" * 16, mixed, labels, ["cat"] * 12, [None if y else "g" for y in labels], tiles=tiles)

    def colourful(pixels: np.ndarray) -> np.ndarray:
        return np.minimum(pixels.astype(float).std(-1).mean((1, 2)) / 4, 1)

    scored = testset.score_slices(colourful, whole)
    assert scored["all"].correct.all()
    assert scored["class:cat"].correct.all()
    assert scored["generator:g"].labels.tolist() == [0] * 6
    assert scored["damage:greyscale"].correct.mean() == 0.5
    assert scored["damage:darker"].correct.all()
    assert {name: len(part.labels) for name, part in scored.items() if name.startswith("unseen:")} == {
        "unseen:gan": 3,
        "unseen:gan/a": 2,
        "unseen:gan/b": 1,
    }
    assert all(part.correct.all() for name, part in scored.items() if name.startswith("unseen:"))
