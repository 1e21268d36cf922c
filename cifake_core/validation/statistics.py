"""Simple statistics of pixels, vectorised over images: what a label could be read off without seeing the picture."""

from __future__ import annotations

import numpy as np

from cifake_core.monitoring import features

COLUMNS = (
    *("mean_r", "mean_g", "mean_b", "std_r", "std_g", "std_b", "brightness", "contrast", "colourfulness", "greyscale"),
    *("entropy", "edge_energy", "high_frequency", "blockiness"),
    *(f"trace_q{quality}" for quality in (30, 40, 50, 60, 65)),
    *("flat", "black", "phash"),
)
MISSING = {"greyscale": False, "flat": False, "black": False, "phash": 0}
GREYSCALE_BELOW = 2.0  # mean distance between channels, in grey levels
FLAT_BELOW = 0.75  # standard deviation of luminance; one colour, through JPEG, stays below 0.5
BLACK_BELOW = 4.0  # largest luminance; JPEG's own noise is about 2


def measure(pixels: np.ndarray) -> dict[str, np.ndarray]:
    """Statistics of (N, 32, 32, 3) uint8 images, each (N,).

    Those of `monitoring.features`, and: `mean_c` and `std_c` of each channel (0–255), `entropy` that of the luminance
    histogram (bits, 0–8), `trace_qQ` the share of coefficients that an earlier JPEG of quality Q could have left (near
    1: it was there), `phash` a 64-bit perceptual hash (uint64).
    """
    luma = features.luminance(pixels)
    cheap = features.measure(pixels)
    channels = {c: features.moments(np.ascontiguousarray(pixels[..., k])) for k, c in enumerate("rgb")}
    return {
        **{f"mean_{c}": mean for c, (mean, _) in channels.items()},
        **{f"std_{c}": std for c, (_, std) in channels.items()},
        **cheap,
        "greyscale": cheap["colourfulness"] < GREYSCALE_BELOW,
        "entropy": _entropy(luma),
        **_traces(luma),
        "flat": cheap["contrast"] < FLAT_BELOW,
        "black": luma.reshape(len(luma), -1).max(1) < BLACK_BELOW,
        "phash": _phash(luma),
    }


def _entropy(luma: np.ndarray) -> np.ndarray:
    n = len(luma)
    levels = np.clip(luma.reshape(n, -1), 0, 255).astype(np.int64)
    counts = np.bincount((levels + 256 * np.arange(n)[:, None]).ravel(), minlength=256 * n).reshape(n, 256)
    share = counts / levels.shape[1]
    return -(share * np.log2(np.where(share > 0, share, 1))).sum(1)


# Double compression leaves gaps in the histogram of DCT coefficients (Lukáš & Fridrich 2003, "Estimation of primary
# quantization matrix in double compressed JPEG images"): only multiples of the first step survive the second one.
_LOW = np.array([1, 8, 2, 9, 16, 3, 10, 17, 24, 4, 11, 18, 25])  # low frequencies, row-major; the others are mostly 0
# Annex K.1 of ITU-T T.81, the luminance table that the IJG quality scales, at the low frequencies.
_BASE = np.array([11, 12, 10, 12, 14, 16, 14, 13, 14, 24, 19, 16, 17])


def _steps(quality: int) -> np.ndarray:
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    return np.maximum(1, (_BASE * scale + 50) // 100).astype(np.float32)


def _traces(luma: np.ndarray) -> dict[str, np.ndarray]:
    from scipy.fft import dctn

    n, now = len(luma), _steps(75)
    blocks = luma.reshape(n, 4, 8, 4, 8).transpose(0, 1, 3, 2, 4)
    coefficients = dctn(blocks, axes=(3, 4), norm="ortho").reshape(n, 16, 64)[..., _LOW]
    level = np.rint(np.abs(coefficients) / now)
    seen = level > 0
    traces = {}
    for name in (c for c in COLUMNS if c.startswith("trace_q")):
        before = _steps(int(name.removeprefix("trace_q")))
        nearest = np.rint(level * now / before)
        possible = np.zeros_like(seen)
        for step in (-1, 0, 1):
            possible |= np.rint(np.maximum(nearest + step, 0) * before / now) == level
        traces[name] = ((possible & seen).sum((1, 2)) + 0.5) / (seen.sum((1, 2)) + 1)
    return traces


def _phash(luma: np.ndarray) -> np.ndarray:
    from scipy.fft import dctn

    low = dctn(luma, axes=(1, 2))[:, :8, :8].reshape(len(luma), 64)
    bits = low > np.median(low[:, 1:], axis=1, keepdims=True)
    return np.packbits(bits, axis=1).view(np.uint64).ravel()
