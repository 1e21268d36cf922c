"""Windowed histograms of live traffic against a reference profile: what of the last minutes has moved, and how far.

A window is a ring of time slots in one array of int64, which may be a file that other processes read: a process adds
to its own array only, and the window of several processes is the sum over their arrays.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from cifake_core.monitoring.drift import ReferenceProfile, count, ks, psi

SLOTS = 15


class Moved(NamedTuple):
    """One feature: how many values the window holds, and their PSI and KS distance to the reference."""

    values: int
    psi: float
    ks: float


class Window:
    """Counts by feature and bin over the last `seconds`, forgotten slot by slot.

    Args:
        profile: the reference, whose bins are counted.
        seconds: length of the window; a slot is a fifteenth of it.
        array: (SLOTS, `width(profile)`) int64 to keep the counts in; a new one by default.
    """

    def __init__(self, profile: ReferenceProfile, seconds: float, array: np.ndarray | None = None) -> None:
        self.profile, self.slot_seconds = profile, seconds / SLOTS
        self.array = empty(profile) if array is None else array
        self._at = _places(profile)

    def add(self, values: Mapping[str, np.ndarray], now: float) -> None:
        """Count values (N,) of the profile's features, seen at `now` (seconds); other features are passed over."""
        slot = int(now / self.slot_seconds)
        row = self.array[slot % SLOTS]
        if row[0] != slot:
            row[0] = -1  # a reader passes over a slot that is being emptied
            row[1:] = 0
            row[0] = slot
        for name, place in self._at.items():
            if name in values:
                row[place] += count(values[name], self.profile.features[name].edges)

    def moved(self, now: float, others: Iterable[np.ndarray] = ()) -> dict[str, Moved]:
        """Per feature, how far this window, together with other processes' arrays, is from the reference."""
        newest = int(now / self.slot_seconds)
        total = np.zeros(self.array.shape[1], np.int64)
        for array in (self.array, *others):
            live = (array[:, 0] > newest - SLOTS) & (array[:, 0] <= newest)
            total += array[live].sum(0)
        found = {}
        for name, place in self._at.items():
            seen, reference = total[place], self.profile.features[name].counts
            found[name] = Moved(int(seen.sum()), psi(reference, seen), ks(reference, seen))
        return found


def empty(profile: ReferenceProfile) -> np.ndarray:
    """An array for a window that holds nothing."""
    array = np.zeros((SLOTS, width(profile)), np.int64)
    array[:, 0] = -1
    return array


def width(profile: ReferenceProfile) -> int:
    """Columns that a window's array needs: the slot's number, then all bins."""
    return 1 + sum(len(histogram.counts) for histogram in profile.features.values())


def _places(profile: ReferenceProfile) -> dict[str, slice]:
    places, start = {}, 1
    for name, histogram in profile.features.items():
        places[name] = slice(start, start + len(histogram.counts))
        start += len(histogram.counts)
    return places
