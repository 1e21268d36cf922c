"""How near generated images are to real ones: Fréchet distance, nearest neighbours. Array code."""

from __future__ import annotations

import numpy as np


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Squared Fréchet distance of two Gaussians fitted to features (N, D) and (M, D) (Heusel et al. 2017).

    https://arxiv.org/abs/1706.08500, equation 6. The published FID takes Inception features; a number on other
    features compares only with others on the same. It grows when N or M is small: compare equal counts only.
    """
    first, second = first.astype(np.float64), second.astype(np.float64)
    means = np.square(first.mean(0) - second.mean(0)).sum()
    one, two = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    # The trace of (one·two)^½ is that of the symmetric (two^½·one·two^½)^½, whose eigenvalues are real and ≥ 0.
    values, vectors = np.linalg.eigh(two)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ one @ root).clip(0)).sum()
    return float(max(0.0, means + np.trace(one) + np.trace(two) - 2 * cross))


def sharpening(drawn: np.ndarray, real: np.ndarray) -> np.ndarray:
    """The filter (3, 3), of sum 1, that brings the mean power spectrum of drawn images nearest to real ones'.

    Autoencoders trained on pixel distances return too little of the high frequencies, and detectors find that first
    (Durall et al. 2020, https://arxiv.org/abs/2003.01826). The amplitude ratio is taken per frequency, and its impulse
    response cut to three by three.

    Args:
        drawn, real: (N, S, S, 3) and (M, S, S, 3) uint8, both through the same codec.
    """
    ratio = np.sqrt(_power(real) / np.maximum(_power(drawn), 1e-6))
    ratio[0, 0] = 1  # brightness stays
    response = np.fft.fftshift(np.fft.ifft2(ratio).real)
    middle = drawn.shape[1] // 2
    kernel = response[middle - 1 : middle + 2, middle - 1 : middle + 2]
    kernel = (kernel + kernel[::-1] + kernel[:, ::-1] + kernel[::-1, ::-1]) / 4
    return kernel / kernel.sum()


def _power(images: np.ndarray) -> np.ndarray:
    """Mean over images and colours of the squared spectrum, (S, S)."""
    centred = images - images.mean((1, 2), keepdims=True, dtype=np.float32)
    return np.square(np.abs(np.fft.fft2(centred, axes=(1, 2)))).mean((0, 3))


def nearest(images: np.ndarray, others: np.ndarray, count: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """The `count` nearest of `others` for each image, by root mean square difference of pixels; mirrors count too.

    Args:
        images: (N, …) uint8; others: (M, …) uint8 of the same shape.

    Returns indices (N, count) and distances (N, count), 0 … 255, nearest first.
    """
    flat = others.reshape(len(others), -1).astype(np.float32)
    squares = np.square(flat).sum(1)
    best = np.full((len(images), len(others)), np.inf, np.float32)
    for view in (images, images[:, :, ::-1]):
        asked = view.reshape(len(view), -1).astype(np.float32)
        best = np.minimum(best, squares - 2 * asked @ flat.T + np.square(asked).sum(1, keepdims=True))
    order = np.argsort(best, axis=1)[:, :count]
    distances = np.sqrt(np.take_along_axis(best, order, 1).clip(0) / flat.shape[1])
    return order, distances
