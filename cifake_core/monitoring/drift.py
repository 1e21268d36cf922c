"""How far a sample has moved from a reference: PSI and Kolmogorov-Smirnov distance on histograms, and the profile used.

Array code: no files, no network. A profile holds counts only, never images.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from pydantic import BaseModel, ConfigDict, model_validator

BINS = 20


class Histogram(BaseModel, frozen=True):
    """Counts over bins: `edges` (B-1,) ascending inner edges, `counts` (B,); the outer bins are open."""

    model_config = ConfigDict(extra="forbid")

    edges: list[float]
    counts: list[int]

    @model_validator(mode="after")
    def _consistent(self) -> Histogram:
        if len(self.counts) != len(self.edges) + 1:
            raise ValueError(f"{len(self.edges)} inner edges need {len(self.edges) + 1} counts, not {len(self.counts)}")
        return self

    @property
    def total(self) -> int:
        """How many values were counted."""
        return sum(self.counts)


class ReferenceProfile(BaseModel, frozen=True):
    """Feature name → histogram of a model version's validation data; `score` is P(REAL)."""

    model_config = ConfigDict(extra="forbid")

    features: dict[str, Histogram]


def reference_histogram(values: np.ndarray, bins: int = BINS) -> Histogram:
    """A histogram whose bins hold about equally many of `values` (N,); ties may merge bins.

    Raises:
        ValueError: no values, or values that are not finite.
    """
    if not len(values) or not np.isfinite(values).all():
        raise ValueError("a reference needs at least one value, all of them finite")
    edges = np.unique(np.quantile(values, np.linspace(0, 1, bins + 1)[1:-1]))
    return Histogram(edges=edges.tolist(), counts=count(values, edges).tolist())


def reference_profile(features: Mapping[str, np.ndarray], bins: int = BINS) -> ReferenceProfile:
    """The profile of named features, each (N,)."""
    return ReferenceProfile(features={name: reference_histogram(np.asarray(v), bins) for name, v in features.items()})


def count(values: np.ndarray, edges: np.ndarray | list[float]) -> np.ndarray:
    """Counts (B,) of values (N,) between inner edges (B-1,); a value on an edge belongs to the upper bin."""
    return np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1)


def psi(reference: np.ndarray | list[int], current: np.ndarray | list[int]) -> float:
    """Population stability index of two histograms over the same bins: 0 when equal, above 0.25 a shift by custom.

    Each bin gets half a count (Jeffreys' prior), so that empty bins give a finite value that shrinks with more data.
    See Yurdakul & Naranjo 2020, https://doi.org/10.21314/JRMV.2020.227.
    """
    p, q = (np.asarray(c, float) + 0.5 for c in (reference, current))
    p, q = p / p.sum(), q / q.sum()
    return float(((p - q) * np.log(p / q)).sum())


def ks(reference: np.ndarray | list[int], current: np.ndarray | list[int]) -> float:
    """Kolmogorov-Smirnov distance of two histograms over the same bins, 0 to 1: a lower bound of the samples' own."""
    p, q = (np.asarray(c, float) for c in (reference, current))
    if not p.sum() or not q.sum():
        return 0.0
    return float(np.abs(p.cumsum() / p.sum() - q.cumsum() / q.sum()).max())
