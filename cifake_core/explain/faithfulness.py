"""Is a heatmap true to the model? Insertion, deletion and ROAD change pixels in the heatmap's order and ask again.

`score` maps images (N, S, S, 3) uint8 to (logits (N,), P(REAL) (N,)); `target` (N,) is 1 for REAL, 0 for FAKE.
"""

from __future__ import annotations

from itertools import combinations
from typing import NamedTuple

import numpy as np

from cifake_core.explain.perturbation import Score, logits

STEPS = 16


class InsertionDeletion(NamedTuple):
    """Areas under the curves, each (N,) in 0…1. A true map has high insertion and low deletion."""

    insertion: np.ndarray
    deletion: np.ndarray


def insertion_deletion(
    score: Score, images: np.ndarray, maps: np.ndarray, target: np.ndarray, steps: int = STEPS
) -> InsertionDeletion:
    """Areas under the target's probability as pixels are put in, or taken away, strongest first.

    Petsiuk et al. 2018 (RISE), https://arxiv.org/abs/1806.07421, section 4.1. Deleted pixels take the image's mean
    colour; insertion starts from a blurred image, so that neither draws new sharp edges where there were none.

    Args:
        images: (N, S, S, 3) uint8.
        maps: (N, S, S).
    """
    n, size = images.shape[:2]
    rank = ranks(maps)
    mean = np.broadcast_to(images.mean((1, 2), keepdims=True).round().astype(np.uint8), images.shape)
    blurred = blur(images)
    curves = []
    for before, after in ((blurred, images), (images, mean)):
        frames = np.empty((n, steps + 1, *images.shape[1:]), np.uint8)
        for step in range(steps + 1):
            changed = rank < size * size * step / steps
            frames[:, step] = np.where(changed[..., None], after, before)
        curves.append(_probability(score, frames, target))
    insertion, deletion = ((curve[:, :-1] + curve[:, 1:]).mean(1) / 2 for curve in curves)  # trapezoids
    return InsertionDeletion(insertion, deletion)


def road(
    score: Score,
    images: np.ndarray,
    maps: np.ndarray,
    target: np.ndarray,
    shares: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9),
) -> np.ndarray:
    """ROAD: the target's probability without the weakest pixels, minus without the strongest; (N,) in −1…1.

    Rong et al. 2022, https://arxiv.org/abs/2202.00449: pixels are not blackened but imputed from their neighbours,
    so that the shape of the hole tells the model nothing. Averaged over `shares` of pixels removed. Needs SciPy.
    """
    rank = ranks(maps)
    total = images.shape[1] ** 2
    frames = np.empty((len(images), 2 * len(shares), *images.shape[1:]), np.uint8)
    for k, image in enumerate(images):
        for j, share in enumerate(shares):
            frames[k, j] = impute(image, rank[k] < share * total)
            frames[k, len(shares) + j] = impute(image, rank[k] >= (1 - share) * total)
    probability = _probability(score, frames, target)
    strongest, weakest = probability[:, : len(shares)], probability[:, len(shares) :]
    return (weakest - strongest).mean(1)


def impute(image: np.ndarray, hole: np.ndarray, noise: float = 0.01, seed: int = 0) -> np.ndarray:
    """The image (S, S, 3) uint8 with the pixels in `hole` (S, S) bool replaced by noisy linear imputation.

    Each is the weighted mean of its neighbours (1/6 beside, 1/12 diagonal), known or imputed: one sparse linear system.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.linalg import spsolve

    if not hole.any():
        return image
    size = image.shape[0]
    where = np.argwhere(hole)
    number = np.full(hole.shape, -1)
    number[hole] = np.arange(len(where))
    sums, right = np.zeros(len(where)), np.zeros((len(where), 3))
    rows, columns, values = [], [], []
    for dy, dx in ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)):
        weight = 1 / 12 if dy and dx else 1 / 6
        y, x = where[:, 0] + dy, where[:, 1] + dx
        inside = np.flatnonzero((y >= 0) & (y < size) & (x >= 0) & (x < size))
        sums[inside] += weight
        neighbour = number[y[inside], x[inside]]
        unknown = neighbour >= 0
        rows.append(inside[unknown])
        columns.append(neighbour[unknown])
        values.append(np.full(unknown.sum(), -weight))
        known = inside[~unknown]
        right[known] += weight * image[y[known], x[known]]
    rows.append(np.arange(len(where)))
    columns.append(np.arange(len(where)))
    # With every pixel removed nothing is known: a touch of the image's mean keeps the system solvable.
    values.append(sums + 1e-6)
    right += 1e-6 * image.mean((0, 1))
    system = coo_array((np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))).tocsc()
    solved = spsolve(system, right).reshape(-1, 3)
    solved += np.random.default_rng(seed).normal(0, noise * 255, solved.shape)
    out = image.copy()
    out[hole] = solved.clip(0, 255).round().astype(np.uint8)
    return out


def agreement(maps: dict[str, np.ndarray]) -> dict[tuple[str, str], float]:
    """Mean Spearman rank correlation, −1…1, of each two methods' maps (N, S, S)."""
    centred = {}
    for name, each in maps.items():
        rank = ranks(each).reshape(len(each), -1).astype(float)
        rank -= rank.mean(1, keepdims=True)
        centred[name] = rank / np.linalg.norm(rank, axis=1, keepdims=True)
    return {(a, b): float((centred[a] * centred[b]).sum(1).mean()) for a, b in combinations(maps, 2)}


def evidence_outside(maps: np.ndarray, foreground: np.ndarray) -> np.ndarray:
    """Share (N,) in 0…1 of the maps' (N, S, S) evidence outside the foreground (N, S, S) bool; flat maps give nan."""
    total = maps.sum((1, 2))
    outside = np.where(foreground, 0, maps).sum((1, 2))
    return np.divide(outside, total, out=np.full(len(maps), np.nan), where=total > 0)


def ranks(maps: np.ndarray) -> np.ndarray:
    """Each pixel's place (N, S, S) int, 0 the strongest; ties in reading order."""
    flat = np.argsort(-maps.reshape(len(maps), -1), axis=1, kind="stable")
    places = np.empty_like(flat)
    np.put_along_axis(places, flat, np.broadcast_to(np.arange(flat.shape[1]), flat.shape), 1)
    return places.reshape(maps.shape)


def blur(images: np.ndarray, radius: int = 4) -> np.ndarray:
    """Images (N, S, S, 3) uint8 after three box blurs, which is nearly a Gaussian."""
    from cifake_core.explain.upsampling import box

    soft = images.astype(np.float32)
    for _ in range(3):
        soft = np.stack([box(soft[..., k], radius) for k in range(3)], -1)
    return soft.round().astype(np.uint8)


def _probability(score: Score, frames: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The target's probability (N, K) of frames (N, K, S, S, 3)."""
    n, k = frames.shape[:2]
    logit = logits(score, frames.reshape(n * k, *frames.shape[2:])).reshape(n, k)
    signed = np.where(np.asarray(target)[:, None] == 1, logit, -logit)
    return 1 / (1 + np.exp(-signed))
