import numpy as np
import pytest

from cifake_core.training.epochs import Arrays, at_least, balanced


def test_a_rare_generator_has_its_share_and_the_others_what_is_left():
    fake = ["common"] * 60 + ["rare"] * 10 + ["other"] * 30
    generators = [*fake[:70], *[None] * 100, *fake[70:]]
    labels = np.array([each is None for each in generators], int)
    assert at_least(fake, 0.3) == pytest.approx({"common": 0.4, "rare": 0.3, "other": 0.3})
    assert at_least(fake, 0.2) == pytest.approx({"common": 0.8 * 2 / 3, "rare": 0.2, "other": 0.8 / 3})
    assert at_least(fake, 0.05) == pytest.approx({"common": 0.6, "rare": 0.1, "other": 0.3})
    assert at_least(fake, 0.5) == pytest.approx(dict.fromkeys(("common", "rare", "other"), 1 / 3))
    rows = Arrays(np.zeros((200, 32, 32, 3), np.uint8), np.zeros(200), balanced(labels, generators, 0.3))
    shown = np.bincount(rows.order(0, 0), minlength=200)
    assert (shown[70:170] == 1).all(), "as many FAKE as REAL"
    assert [shown[:60].sum(), shown[60:70].sum(), shown[170:].sum()] == [40, 30, 30]
    assert rows.count == shown.sum()


def test_as_many_fake_as_real_are_shown_and_all_before_any_again():
    generators = [None] * 40 + ["sd"] * 60 + ["gan"] * 10
    groups = balanced(np.repeat([1, 0], [40, 70]), generators, 0.25)
    rows = Arrays(np.zeros((110, 32, 32, 3), np.uint8), np.zeros(110), groups=groups)
    epochs = [rows.order(3, epoch) for epoch in range(2)]
    for order in epochs:
        shown = np.bincount(order, minlength=110)
        assert (shown[:40] == 1).all()
        assert (shown[40:100].sum(), shown[100:].sum()) == (30, 10)
        assert len(order) == rows.count == 80
    assert (np.bincount(np.concatenate(epochs), minlength=110)[40:100] == 1).all()  # all before any again
    np.testing.assert_array_equal(epochs[1], rows.order(3, 1))
    assert (rows.order(4, 1) != epochs[1]).any()


def test_fake_images_of_nobody_knows_whom_are_a_generator_and_never_real():
    labels = np.repeat([1, 0, 0], [20, 12, 4])
    groups = balanced(labels, [None] * 32 + ["gan"] * 4, 0.4)
    assert sorted(len(group.rows) for group in groups) == [4, 12, 20]
    assert sum(group.count for group in groups) == 40
    (real, *_) = (group for group in groups if len(group.rows) == 20)
    assert (labels[real.rows] == 1).all()


def test_a_generator_whose_share_is_less_than_an_image_is_shown_all_the_same():
    groups = balanced(np.repeat([1, 0], [2, 1001]), [None] * 2 + ["sd"] * 1000 + ["gan"], 0.0)
    assert min(group.count for group in groups) == 1
