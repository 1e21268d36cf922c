"""Explanations that ask the model again: occlusion, Score-CAM, and averages over noisy copies (SmoothGrad).

`score` maps images (N, S, S, 3) uint8 to (logits (N,), P(REAL) (N,)); `sign` (N,) is +1 to explain REAL, −1 for FAKE.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cifake_core.explain import cams

Score = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
BATCH = 512


def logits(score: Score, images: np.ndarray) -> np.ndarray:
    """Logits (N,) of many images, in batches that fit memory."""
    parts = [score(np.ascontiguousarray(images[i : i + BATCH]))[0] for i in range(0, len(images), BATCH)]
    return np.concatenate(parts)


def occlusion(score: Score, images: np.ndarray, sign: np.ndarray, patch: int = 8, stride: int = 4) -> np.ndarray:
    """Maps (N, S, S): how much the target's logit falls when a patch is greyed out. Zeiler & Fergus 2014, https://arxiv.org/abs/1311.2901.

    The patch takes the image's own mean colour; each pixel gets the mean fall over the patches that cover it.
    """
    n, size = images.shape[:2]
    grey = images.mean((1, 2)).round().astype(np.uint8)
    corners = [
        (max(y, 0), min(y + patch, size), max(x, 0), min(x + patch, size))
        for y in range(stride - patch, size, stride)
        for x in range(stride - patch, size, stride)
    ]
    copies = np.repeat(images[:, None], len(corners), 1)
    for k, (top, bottom, left, right) in enumerate(corners):
        copies[:, k, top:bottom, left:right] = grey[:, None, None]
    hidden = logits(score, copies.reshape(-1, *images.shape[1:])).reshape(n, -1)
    fall = (logits(score, images)[:, None] - hidden) * sign[:, None]
    total = np.zeros((n, size, size), np.float32)
    covered = np.zeros((size, size), np.float32)
    for k, (top, bottom, left, right) in enumerate(corners):
        total[:, top:bottom, left:right] += fall[:, k, None, None]
        covered[top:bottom, left:right] += 1
    return np.maximum(total / covered, 0)


def scorecam(score: Score, images: np.ndarray, activations: np.ndarray, sign: np.ndarray) -> np.ndarray:
    """Score-CAM: channels weighted by the logit of the image seen through them. Wang et al. 2020, https://arxiv.org/abs/1910.01279.

    Weights are the softmax over channels of the masked images' logits (equation 9), the target's sign applied.
    Maps (N, h, w), of the activations' size.
    """
    n, size = images.shape[:2]
    channels = activations.shape[-1]
    weights = np.empty((n, channels), np.float32)
    for k in range(n):
        masks = cams.normalise(cams.resize(np.moveaxis(activations[k], -1, 0), size))
        masked = (images[k][None] * masks[..., None]).round().astype(np.uint8)
        weights[k] = logits(score, masked) * sign[k]
    weights = np.exp(weights - weights.max(1, keepdims=True))
    weights /= weights.sum(1, keepdims=True)
    return np.maximum(np.einsum("nhwc,nc->nhw", activations, weights), 0)


def smooth(
    explain: Callable[[np.ndarray], Any],
    images: np.ndarray,
    cam: cams.Cam,
    blocks: Sequence[str],
    sign: np.ndarray,
    samples: int = 16,
    sigma: float = 0.1,
) -> list[np.ndarray]:
    """A method's maps (N, h, w) per block, averaged over noisy copies of the images.

    SmoothGrad, Smilkov et al. 2017, https://arxiv.org/abs/1706.03825; on Grad-CAM++, Omeiza et al. 2019,
    https://arxiv.org/abs/1908.01224. The noise is Gaussian, `sigma` of each image's own range, and the same for all:
    an image gets the same map alone and in a batch.
    """
    rng = np.random.default_rng(0)
    span = (images.max((1, 2, 3), keepdims=True) - images.min((1, 2, 3), keepdims=True)).astype(np.float32)
    signs = sign[:, None, None, None]
    total: list[np.ndarray] = []
    for _ in range(samples):
        noise = rng.standard_normal(images.shape[1:], np.float32) * sigma * span
        out = explain(np.clip(images + noise, 0, 255).round().astype(np.uint8))
        maps = [cam(out.activations[block], out.gradients[block] * signs) for block in blocks]
        total = [a + b for a, b in zip(total, maps, strict=True)] if total else maps
    return [each / samples for each in total]
