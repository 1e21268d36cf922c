"""EfficientNet-B0 as Keras' application has it, weight for weight, with stages that can be named and explained.

Tan & Le 2019, https://arxiv.org/abs/1905.11946, table 1. Keras' own names its layers and scales pixels itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import keras

# Kernel, units, filters, strides of each stage; the first expands its input once, the others six times.
STAGES = ((3, 1, 16, 1), (3, 2, 24, 2), (5, 2, 40, 2), (3, 3, 80, 2), (5, 3, 112, 1), (5, 4, 192, 2), (3, 1, 320, 1))
DROP = 0.2


def features(x: keras.KerasTensor) -> keras.KerasTensor:
    """Scaled images (N, S, S, 3) to features (N, 1280).

    `block1` … `block7` are the stages' outputs, which no activation follows, as far as they are larger than one
    pixel: at 32×32 five are, the last of them 2×2.
    """
    from keras import layers

    x = _normalised(_convolution(x, 32, 3, 2), "swish")
    number, units = 0, sum(stage[1] for stage in STAGES)
    for stage, (kernel, repeats, filters, strides) in enumerate(STAGES, start=1):
        for unit in range(repeats):
            x = _unit(x, kernel, filters, 1 if unit else strides, 6 if stage > 1 else 1, DROP * number / units)
            number += 1
        if x.shape[1] > 1:
            x = layers.Identity(name=f"block{stage}")(x)
    x = layers.GlobalAveragePooling2D()(_normalised(_convolution(x, 1280, 1), "swish"))
    return layers.Dropout(DROP)(x)


def _unit(
    x: keras.KerasTensor, kernel: int, filters: int, strides: int, expansion: int, drop: float
) -> keras.KerasTensor:
    """Widen, filter each channel alone, weigh the channels, narrow; beside the identity where shapes allow."""
    from keras import layers

    wide = x.shape[-1] * expansion
    y = _normalised(_convolution(x, wide, 1), "swish") if expansion > 1 else x
    y = layers.DepthwiseConv2D(kernel, strides, padding="same", use_bias=False, depthwise_initializer=_initializer())(y)
    y = _normalised(y, "swish")
    gate = layers.GlobalAveragePooling2D(keepdims=True)(y)
    gate = _convolution(gate, max(1, x.shape[-1] // 4), 1, use_bias=True, activation="swish")
    y = layers.Multiply()([y, _convolution(gate, wide, 1, use_bias=True, activation="sigmoid")])
    y = _normalised(_convolution(y, filters, 1))
    if strides > 1 or x.shape[-1] != filters:
        return y
    # A whole image's unit is dropped, stochastic depth: Huang et al. 2016, https://arxiv.org/abs/1603.09382.
    return layers.Add()([x, layers.Dropout(drop, noise_shape=(None, 1, 1, 1))(y)])


def _convolution(
    x: keras.KerasTensor,
    filters: int,
    kernel: int,
    strides: int = 1,
    use_bias: bool = False,
    activation: str = "linear",
) -> keras.KerasTensor:
    from keras import layers

    initial = _initializer()
    return layers.Conv2D(
        filters, kernel, strides, "same", use_bias=use_bias, activation=activation, kernel_initializer=initial
    )(x)


def _normalised(x: keras.KerasTensor, activation: str = "linear") -> keras.KerasTensor:
    from keras import layers

    return layers.Activation(activation)(layers.BatchNormalization()(x))


def _initializer() -> keras.initializers.Initializer:
    from keras import initializers

    return initializers.VarianceScaling(2.0, "fan_out", "truncated_normal")
