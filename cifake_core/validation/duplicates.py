"""Near duplicates across splits: perceptual hashes find the candidates, pixels confirm them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

BITS = 12  # of 64 by which a copy's perceptual hash may differ: a shift by one pixel stays within for 96 of 100
SHIFT = 2  # pixels by which a copy may be moved
ALIKE = 0.8  # correlation of gradients, aligned: copies are above 0.9, other pictures below 0.6
BLOCK = (1_024, 8_192)  # hashes compared at once


def near_duplicates(
    left: np.ndarray, right: np.ndarray, luminance: Callable[[str, np.ndarray], np.ndarray]
) -> np.ndarray:
    """Pairs of images that are the same picture, perhaps moved by a pixel or two or encoded again.

    CIFAR-10 itself holds such pairs between train and test (Barz & Denzler 2020, https://arxiv.org/abs/1902.00423).

    Args:
        left, right: perceptual hashes, (N,) and (M,) uint64.
        luminance: gives the images (K, 32, 32) float32 of some indices of `"left"` or `"right"`.

    Returns:
        (P, 2) int64 indices into left and right.
    """
    pairs = _candidates(left, right)
    if not len(pairs):
        return pairs
    alike = np.zeros(len(pairs), bool)
    for start in range(0, len(pairs), 4_000):
        part = pairs[start : start + 4_000]
        one, other = luminance("left", part[:, 0]), luminance("right", part[:, 1])
        alike[start : start + 4_000] = _correlation(_gradient(one), _gradient(other)) >= ALIKE
    return pairs[alike]


def _candidates(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Hamming distance by matrix product: bits as ±1 have the product 64 - 2 × distance."""
    one, other = _signs(left), _signs(right).T.copy()
    found = []
    for i in range(0, len(left), BLOCK[0]):
        for j in range(0, len(right), BLOCK[1]):
            close = np.flatnonzero((one[i : i + BLOCK[0]] @ other[:, j : j + BLOCK[1]]).ravel() >= 64 - 2 * BITS)
            width = min(BLOCK[1], len(right) - j)
            found.append(np.stack([close // width + i, close % width + j], axis=1))
    return np.concatenate(found) if found else np.empty((0, 2), np.int64)


def _signs(hashes: np.ndarray) -> np.ndarray:
    octets = np.ascontiguousarray(hashes).view(np.uint8).reshape(len(hashes), 8)
    return np.unpackbits(octets, axis=1).astype(np.float32) * 2 - 1


def _gradient(luma: np.ndarray) -> np.ndarray:
    corner = luma[:, 1:, 1:]
    return np.stack([corner - luma[:, 1:, :-1], corner - luma[:, :-1, 1:]], axis=1)


def _correlation(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The best correlation over all shifts, (K,) in -1..1."""
    best = np.full(len(one), -1.0)
    size = one.shape[-1]
    for dy in range(-SHIFT, SHIFT + 1):
        for dx in range(-SHIFT, SHIFT + 1):
            a = one[:, :, max(0, dy) : size + min(0, dy), max(0, dx) : size + min(0, dx)]
            b = other[:, :, max(0, -dy) : size + min(0, -dy), max(0, -dx) : size + min(0, -dx)]
            power = np.sqrt((a**2).sum((1, 2, 3)) * (b**2).sum((1, 2, 3)))
            best = np.maximum(best, (a * b).sum((1, 2, 3)) / np.maximum(power, 1e-6))
    return best
