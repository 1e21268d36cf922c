"""Cheap features of what enters a detector, whose distributions tell when traffic is no longer what training saw.

Array code: pixels in, numbers out.
"""

from __future__ import annotations

import numpy as np

FEATURES = ("brightness", "contrast", "colourfulness", "edge_energy", "high_frequency", "blockiness")
SCORE = "score"  # P(REAL), watched beside the features


def measure(pixels: np.ndarray) -> dict[str, np.ndarray]:
    """FEATURES of (N, S, S, 3) uint8 images, each (N,).

    `brightness` and `contrast` are mean and deviation of the luminance (0–255), `colourfulness` the mean distance
    between the largest and smallest channel (0–255), `edge_energy` the mean absolute difference of neighbours,
    `high_frequency` the share of the spectrum's energy (mean taken out) above half the Nyquist frequency,
    `blockiness` edges on the 8×8 grid over edges inside it.
    """
    luma = luminance(pixels)
    brightness, contrast = moments(luma)
    across, down = np.abs(np.diff(luma, axis=2)), np.abs(np.diff(luma, axis=1))
    return {
        "brightness": brightness,
        "contrast": contrast,
        "colourfulness": colourfulness(pixels),
        "edge_energy": (across.mean((1, 2)) + down.mean((1, 2))) / 2,
        "high_frequency": high_frequency(luma - brightness[:, None, None]),
        "blockiness": blockiness(across, down),
    }


def luminance(pixels: np.ndarray) -> np.ndarray:
    """Rec. 601 luminance (N, H, W) float32 of (N, H, W, 3) uint8."""
    red, green, blue = (np.ascontiguousarray(pixels[..., c]).astype(np.float32) for c in range(3))
    return 0.299 * red + 0.587 * green + 0.114 * blue


def moments(plane: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each image of (N, H, W)."""
    flat = plane.reshape(len(plane), -1).astype(np.float32)
    mean = flat.mean(1)
    return mean, np.sqrt(np.maximum(np.einsum("ij,ij->i", flat, flat) / flat.shape[1] - mean**2, 0))


def colourfulness(pixels: np.ndarray) -> np.ndarray:
    """Mean distance between the largest and the smallest channel of (N, H, W, 3) uint8."""
    red, green, blue = (np.ascontiguousarray(pixels[..., c]) for c in range(3))
    highest, lowest = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
    return moments(highest - lowest)[0]


def high_frequency(centred: np.ndarray) -> np.ndarray:
    """Share of the energy above half the Nyquist frequency, of (N, H, W) planes with their means taken out."""
    power = np.abs(np.fft.rfft2(centred)) ** 2
    fy, fx = np.fft.fftfreq(centred.shape[1])[:, None], np.fft.rfftfreq(centred.shape[2])[None]
    twice = np.where((fx == 0) | (fx == 0.5), 1.0, 2.0)  # rfft keeps one of each conjugate pair
    power = power * twice
    total = power.sum((1, 2))
    return power[:, np.hypot(fy, fx) > 0.25].sum(1) / np.maximum(total, 1e-6)


def blockiness(across: np.ndarray, down: np.ndarray) -> np.ndarray:
    """Edges on the 8×8 grid over edges inside it, of absolute differences (N, H, W-1) and (N, H-1, W)."""
    grid = np.arange(across.shape[2]) % 8 == 7
    edge = across[:, :, grid].mean((1, 2)) + down[:, grid].mean((1, 2))
    inside = across[:, :, ~grid].mean((1, 2)) + down[:, ~grid].mean((1, 2))
    return edge / np.maximum(inside, 1e-3)
