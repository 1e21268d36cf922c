"""Class activation maps as array code: activations and gradients of the logit in, heatmaps out.

Every method takes `activations` and `gradients`, both (N, h, w, c) float32, of one convolution block and returns maps
(N, h, w) float32, at least 0, unscaled. Gradients are of the *logit* of REAL: the sigmoid's gradient vanishes
where the detector is sure. The FAKE map is the negated logit's, so its gradients are the negated ones.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Cam = Callable[[Array, Array], Array]
EPSILON = 1e-8


def gradcam(activations: Array, gradients: Array) -> Array:
    """Grad-CAM: channels weighted by their mean gradient. Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391."""
    return _weighted(activations, gradients.mean((1, 2)))


def gradcam_plus_plus(activations: Array, gradients: Array) -> Array:
    """Grad-CAM++: positive gradients weighted by their pixel's share. Chattopadhay et al. 2018, https://arxiv.org/abs/1710.11063.

    Equation 19 with the exponential's derivatives, as the authors' own code does.
    """
    square = gradients**2
    denominator = 2 * square + activations.sum((1, 2), keepdims=True) * square * gradients
    share = np.divide(square, denominator, out=np.zeros_like(square), where=np.abs(denominator) > EPSILON)
    return _weighted(activations, (share * np.maximum(gradients, 0)).sum((1, 2)))


def hirescam(activations: Array, gradients: Array) -> Array:
    """HiResCAM: gradient times activation, summed over channels. Draelos & Carin 2020, https://arxiv.org/abs/2011.08891."""
    return np.maximum((gradients * activations).sum(-1), 0)


def layercam(activations: Array, gradients: Array) -> Array:
    """LayerCAM: positive gradients times activations. Jiang et al. 2021, https://doi.org/10.1109/TIP.2021.3089943."""
    return np.maximum((np.maximum(gradients, 0) * activations).sum(-1), 0)


def xgradcam(activations: Array, gradients: Array) -> Array:
    """XGrad-CAM: gradients weighted by normalised activations. Fu et al. 2020, https://arxiv.org/abs/2008.02312."""
    share = activations / (activations.sum((1, 2), keepdims=True) + EPSILON)
    return _weighted(activations, (gradients * share).sum((1, 2)))


def eigencam(activations: Array, gradients: Array) -> Array:
    """Eigen-CAM: the activations' first principal component. Muhammad & Yeasin 2020, https://arxiv.org/abs/2008.00299.

    Knows no target: `gradients` are not looked at, and both labels get the same map.
    """
    return _first_component(activations)


def eigengradcam(activations: Array, gradients: Array) -> Array:
    """Eigen-CAM of gradient times activation, so that the map follows the target (pytorch-grad-cam's EigenGradCAM)."""
    return _first_component(activations * gradients)


METHODS: dict[str, Cam] = {
    "gradcam": gradcam,
    "gradcam++": gradcam_plus_plus,
    "hirescam": hirescam,
    "layercam": layercam,
    "xgradcam": xgradcam,
    "eigencam": eigencam,
    "eigengradcam": eigengradcam,
}


def _weighted(activations: Array, weights: Array) -> Array:
    return np.maximum(np.einsum("nhwc,nc->nhw", activations, weights), 0)


def _first_component(features: Array) -> Array:
    n, h, w, c = features.shape
    flat = features.reshape(n, h * w, c)
    flat = flat - flat.mean(1, keepdims=True)
    _, _, axes = np.linalg.svd(flat, full_matrices=False)
    maps = np.einsum("npc,nc->np", flat, axes[:, 0])
    # A component has no sign of its own: point it to where the features are strong.
    strength = np.einsum("np,np->n", maps, features.sum(-1).reshape(n, h * w))
    maps *= np.where(strength < 0, -1, 1)[:, None]
    return np.maximum(maps, 0).reshape(n, h, w).astype(np.float32)


def normalise(maps: Array) -> Array:
    """Scale each of the maps (N, h, w) to 0…1 by its own range; a flat map becomes all zero."""
    low = maps.min((1, 2), keepdims=True)
    span = maps.max((1, 2), keepdims=True) - low
    scaled = np.zeros_like(maps, np.float32)
    np.divide(maps - low, span, out=scaled, where=span > EPSILON)
    return scaled


def resize(maps: Array, size: int) -> Array:
    """Resize maps (N, h, w) bilinearly to (N, size, size) float32, pixel centres aligned."""
    for axis in (1, 2):
        old = maps.shape[axis]
        at = np.clip((np.arange(size) + 0.5) * old / size - 0.5, 0, old - 1)
        low = np.minimum(at.astype(int), max(old - 2, 0))
        high = np.minimum(low + 1, old - 1)
        part = (at - low).astype(np.float32).reshape([-1 if i == axis else 1 for i in range(3)])
        maps = maps.take(low, axis) * (1 - part) + maps.take(high, axis) * part
    return maps.astype(np.float32)
