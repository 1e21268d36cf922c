"""Test-time averaging: the mean score of an image and its copies, measured beside the plain score and used nowhere.

Copies are the mirror image and shifts by a pixel, the edge repeated; Krizhevsky et al. 2012 (section 4.1) average crops
and their reflections alike.
"""

from __future__ import annotations

import numpy as np
from pydantic import BaseModel, ConfigDict

from cifake_core.evaluation.testset import Score, Scored, TestSet

SHIFTS = ((-1, 0), (1, 0), (0, -1), (0, 1))


class Average(BaseModel, frozen=True):
    """Accuracy with and without averaging on the same images; how many are right by one of the two only."""

    model_config = ConfigDict(extra="forbid")

    name: str
    views: int  # scores averaged, the plain one among them
    rows: int
    plain: float
    averaged: float
    better: int
    worse: int


def measure(score: Score, testset: TestSet, whole: Scored, shifted_rows: int = 2000) -> list[Average]:
    """What averaging would change: `flip` on all images, `flip-and-shift` on the first `shifted_rows`.

    Args:
        whole: the plain scores of all of the test set's images.
    """
    first, few = slice(shifted_rows), testset.images[:shifted_rows]
    flipped = score(testset.images[:, :, ::-1])
    shifted = [score(shift(few, *by)) for by in SHIFTS]
    return [
        _compare("flip", whole, [whole.scores, flipped]),
        _compare("flip-and-shift", whole, [whole.scores[first], flipped[first], *shifted]),
    ]


def shift(images: np.ndarray, down: int, right: int) -> np.ndarray:
    """Images (N, S, S, 3) moved by at most a pixel either way, the edge repeated."""
    size = images.shape[1]
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), "edge")
    return padded[:, 1 - down : 1 - down + size, 1 - right : 1 - right + size]


def _compare(name: str, whole: Scored, views: list[np.ndarray]) -> Average:
    rows = slice(len(views[0]))
    plain = whole.correct[rows]
    averaged = Scored(whole.labels[rows], np.mean(views, 0), whole.threshold).correct
    return Average(
        name=name,
        views=len(views),
        rows=len(plain),
        plain=float(plain.mean()),
        averaged=float(averaged.mean()),
        better=int((averaged & ~plain).sum()),
        worse=int((plain & ~averaged).sum()),
    )
