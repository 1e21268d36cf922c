import numpy as np
import pytest

from cifake_core.training.augmentation import Augmentation, augment, mix

EVERYTHING = Augmentation(
    flip=0.5,
    shift=2,
    cutout=0.5,
    damage=0.8,
    damages={
        "jpeg": (25, 95),
        "blur": (0.3, 1.6),
        "noise": (0.01, 0.07),
        "rescale": (0.45, 0.95),
        "brightness": (0.7, 1.3),
    },
    again=0.5,
)


def changed(images: np.ndarray, seed: int = 0, **plan) -> np.ndarray:
    return augment(images, Augmentation(**plan), np.random.default_rng(seed))


def test_the_same_seed_changes_images_alike_and_the_originals_stay(rows):
    before = rows.images.copy()
    one, same, other = (augment(rows.images, EVERYTHING, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    np.testing.assert_array_equal(rows.images, before)
    assert (one != other).any()
    assert (one.shape, one.dtype) == (before.shape, np.uint8)


def test_nothing_asked_for_changes_nothing(rows):
    assert not Augmentation().active
    np.testing.assert_array_equal(changed(rows.images), rows.images)


def test_flips_mirror_left_and_right(rows):
    np.testing.assert_array_equal(changed(rows.images, flip=1), rows.images[:, :, ::-1])
    mirrored = (changed(np.tile(rows.images[:1], (400, 1, 1, 1)), flip=0.5) != rows.images[0]).any(axis=(1, 2, 3))
    assert 150 < mirrored.sum() < 250


def test_shifts_move_the_whole_picture_by_every_offset_up_to_the_most(rows):
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    moved = changed(np.tile(image, (300, 1, 1, 1)), shift=2)
    seen = set()
    for each in moved:
        for dy in range(-2, 3):
            for dx in range(-2, 3):
                if (each[4:28, 4:28] == image[4 + dy : 28 + dy, 4 + dx : 28 + dx]).all():
                    seen.add((dy, dx))
    assert len(seen) == 25


def test_cutout_paints_one_grey_square(rows):
    white = np.full((8, 32, 32, 3), 255, np.uint8)
    cut = changed(white, cutout=1, cutout_side=8)
    for image in cut:
        ys, xs = np.nonzero((image == 128).all(axis=-1))
        assert len(ys) == 64
        assert (np.ptp(ys), np.ptp(xs)) == (7, 7)


@pytest.mark.parametrize(
    ("operation", "amounts"), [("jpeg", (10, 20)), ("blur", (1, 2)), ("noise", (0.05, 0.1)), ("rescale", (0.4, 0.6))]
)
def test_damage_hits_the_asked_share_of_images(rows, operation, amounts):
    images = np.tile(rows.images, (10, 1, 1, 1))
    hit = (changed(images, damage=0.5, damages={operation: amounts}) != images).any(axis=(1, 2, 3))
    assert 0.35 < hit.mean() < 0.65
    assert (changed(images, damage=1, damages={operation: amounts}) != images).any(axis=(1, 2, 3)).all()


def test_a_mixed_image_has_a_square_of_another_and_its_share_of_the_label():
    labels = np.arange(400)[:, None] % 2
    images = np.broadcast_to(255 * labels[:, :, None, None], (400, 32, 32, 3)).astype(np.uint8)
    mixed, targets = mix(images, labels, Augmentation(cutmix=0.5), np.random.default_rng(0))
    np.testing.assert_allclose(targets[:, 0], mixed.mean(axis=(1, 2, 3)) / 255, atol=1e-6)
    both = (targets[:, 0] > 0) & (targets[:, 0] < 1)
    assert 60 < both.sum() < 140  # half are mixed, half of those with one of the other label
    for square in (mixed != images)[both, :, :, 0]:
        rows, columns = square.any(1), square.any(0)
        assert square.sum() == rows.sum() * columns.sum() == rows.sum() ** 2
    assert np.ptp(targets[both]) > 0.8


def test_nothing_is_mixed_unasked(rows):
    mixed, targets = mix(rows.images, rows.labels[:, None], Augmentation(), np.random.default_rng(0))
    np.testing.assert_array_equal(mixed, rows.images)
    np.testing.assert_array_equal(targets[:, 0], rows.labels)
