"""Guided upsampling: a coarse heatmap made to follow the edges of the image it explains."""

from __future__ import annotations

import numpy as np


def guided(maps: np.ndarray, images: np.ndarray, radius: int = 4, epsilon: float = 1e-3) -> np.ndarray:
    """Maps (N, S, S) filtered with their images' luminance as guide; at least 0.

    Guided filter, He et al. 2013, https://doi.org/10.1109/TPAMI.2012.213 (section 3, grey guide): within each window
    the result is linear in the guide.

    Args:
        maps: (N, S, S) float, already of the image's size.
        images: (N, S, S, 3) uint8.
        radius: the window is 2·radius + 1 pixels wide.
        epsilon: guides flatter than this variance (of 0…1 luminance) are smoothed instead of followed.
    """
    guide = images.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32) / 255
    mean_guide, mean_map = box(guide, radius), box(maps, radius)
    variance = box(guide * guide, radius) - mean_guide**2
    slope = (box(guide * maps, radius) - mean_guide * mean_map) / (variance + epsilon)
    offset = mean_map - slope * mean_guide
    return np.maximum(box(slope, radius) * guide + box(offset, radius), 0).astype(np.float32)


def box(arrays: np.ndarray, radius: int) -> np.ndarray:
    """Mean over the square window around each pixel, cut off at the border."""
    size = arrays.shape[-1]
    low = np.clip(np.arange(size) - radius, 0, size)
    high = np.clip(np.arange(size) + radius + 1, 0, size)
    for axis in (1, 2):
        sums = np.concatenate(
            [np.zeros_like(arrays.take([0], axis), np.float64), arrays.cumsum(axis, np.float64)], axis
        )
        shape = [-1 if k == axis else 1 for k in range(3)]
        arrays = (sums.take(high, axis) - sums.take(low, axis)) / (high - low).reshape(shape)
    return arrays
