"""Muon for convolutions (https://kellerjordan.github.io/posts/muon): steps whose directions all have one size.

Keras' own takes matrices only and leaves kernels of convolutions to AdamW; here they are matrices, too: input patches
by output channels. Steps are scaled to AdamW's size (Liu et al. 2025, https://arxiv.org/abs/2502.16982).
"""

from __future__ import annotations

import math

import keras
from keras import ops


class Muon(keras.optimizers.Muon):
    """Every kernel but the last layer's by Muon; that, biases and normalisation by AdamW at the same learning rate."""

    def _should_use_adamw(self, variable: keras.Variable) -> bool:
        return len(variable.shape) < 2 or "logit" in variable.path

    def lr_adjust(self, x: keras.KerasTensor) -> keras.KerasTensor:
        """Scale an update (…, K) to a root mean square of `rms_rate`, about AdamW's."""
        return x * (self.rms_rate * math.sqrt(max(math.prod(x.shape[:-1]), x.shape[-1])))

    def zeropower_via_newtonschulz5(self, x: keras.KerasTensor, steps: int) -> keras.KerasTensor:
        """The nearest matrix with equal singular values, of x (…, K) seen as a matrix of K columns."""
        return ops.reshape(super().zeropower_via_newtonschulz5(ops.reshape(x, (-1, x.shape[-1])), steps), x.shape)
