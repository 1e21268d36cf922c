"""What an epoch of training shows: decoded images, and how many of which, in an order that its number decides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cifake_core.settings import REAL


@dataclass(frozen=True)
class Group:
    """Rows (K,) of which an epoch shows `count`, in turn: every one before any again."""

    rows: np.ndarray
    count: int

    def taken(self, seed: int, number: int, epoch: int) -> np.ndarray:
        """The rows for an epoch, (count,); they depend on the arguments only."""
        place = np.arange(epoch * self.count, (epoch + 1) * self.count)
        turn, place = np.divmod(place, len(self.rows))
        orders = {t: np.random.default_rng([seed, number, t]).permutation(self.rows) for t in np.unique(turn)}
        return np.concatenate([orders[t][place[turn == t]] for t in orders])


@dataclass(frozen=True)
class Arrays:
    """Decoded images (N, 32, 32, 3) uint8 and labels (N,), FAKE 0 and REAL 1.

    `groups` say how many of which rows an epoch shows; none: every row, once.
    """

    images: np.ndarray
    labels: np.ndarray
    groups: tuple[Group, ...] = ()

    @property
    def count(self) -> int:
        """Images an epoch shows."""
        return sum(group.count for group in self.groups) if self.groups else len(self.labels)

    def order(self, seed: int, epoch: int) -> np.ndarray:
        """The rows of one epoch, shuffled."""
        rows = np.arange(len(self.labels))
        if self.groups:
            rows = np.concatenate([group.taken(seed, i, epoch) for i, group in enumerate(self.groups)])
        return np.random.default_rng([seed, epoch]).permutation(rows)


def balanced(labels: np.ndarray, generators: Sequence[str | None], share: float) -> tuple[Group, ...]:
    """All REAL rows, and as many FAKE ones, by each generator (one that is not named is one, too) at least `share`.

    In turn: all of a generator's images before any again.
    """
    real = np.flatnonzero(labels == REAL)
    names = np.array([name or "unknown" for name in generators], dtype=object)
    names[real] = ""
    groups = [Group(real, len(real))]
    for name, part in sorted(at_least([name for name in names if name], share).items()):
        groups.append(Group(np.flatnonzero(names == name), max(1, round(part * len(real)))))
    return tuple(groups)


def at_least(generators: Sequence[str], share: float) -> dict[str, float]:
    """Each generator's share of the FAKE rows, but none less than `share`, or than an equal part."""
    rows = Counter(generators)
    share = min(share, 1 / len(rows))
    rare: set[str] = set()
    while True:
        common = sum(count for name, count in rows.items() if name not in rare)
        left = (1 - share * len(rare)) / common if common else 0
        found = {name: share if name in rare else count * left for name, count in rows.items()}
        if not (fallen := {name for name in found if found[name] < share}):
            return found
        rare |= fallen
