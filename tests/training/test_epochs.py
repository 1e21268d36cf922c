import numpy as np
import pytest

from cifake_core.training.epochs import Arrays, at_least, balanced


def test_a_rare_generator_has_its_share_and_the_others_what_is_left():
    generators = ["common"] * 60 + ["rare"] * 10 + [None] * 100 + ["other"] * 30
    assert at_least(generators, 0.3) == pytest.approx({"common": 0.4, "rare": 0.3, "other": 0.3})
    assert at_least(generators, 0.2) == pytest.approx({"common": 0.8 * 2 / 3, "rare": 0.2, "other": 0.8 / 3})
    assert at_least(generators, 0.05) == pytest.approx({"common": 0.6, "rare": 0.1, "other": 0.3})
    assert at_least(generators, 0.5) == pytest.approx(dict.fromkeys(("common", "rare", "other"), 1 / 3))
    rows = Arrays(np.zeros((200, 32, 32, 3), np.uint8), np.zeros(200), balanced(generators, 0.3))
    shown = np.bincount(rows.order(0, 0), minlength=200)
    assert (shown[70:170] == 1).all(), "as many FAKE as REAL"
    assert [shown[:60].sum(), shown[60:70].sum(), shown[170:].sum()] == [40, 30, 30]
    assert rows.count == shown.sum()


def test_as_many_fake_as_real_are_shown_and_all_before_any_again():
    generators = [None] * 40 + ["sd"] * 60 + ["gan"] * 10
    groups = balanced(generators, 0.25)
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
