"""Attention rollout: which tokens of the input a transformer's attention leads back to."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from cifake_core.explain.cams import Array


def rollout(attention: Sequence[Array]) -> Array:
    """Maps (N, t, t), each of sum 1: the share that each of the T = t² tokens has in what the head sees.

    Abnar & Zuidema 2020, https://arxiv.org/abs/2005.00928, section 3.1: layers' weights, averaged over heads and with
    half of the identity for the residual beside them, multiplied from the last to the first. Knows no target.

    Args:
        attention: per layer, from the input on, (N, heads, T, T), rows adding up to 1; last the pooling's (N, T, 1),
            which takes the place of the paper's class token.
    """
    *layers, pooling = attention
    share = pooling[..., 0]
    for weights in reversed(layers):
        share = (share + np.einsum("nt,nhts->ns", share, weights) / weights.shape[1]) / 2
    side = math.isqrt(share.shape[1])
    return share.reshape(-1, side, side).astype(np.float32)
