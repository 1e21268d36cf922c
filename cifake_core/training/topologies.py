"""Network shapes by name.

Every topology takes 32×32 RGB pixels 0..255, scales them inside the model, and ends in `logit` and
`probability_real`. The post-activation outputs worth explaining are layers named `block1`, `block2`, …; layers of
attention are named `attention1`, …, and the last of them pools the tokens.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from cifake_core.errors import ConfigurationError
from cifake_core.images.codec import SIZE

if TYPE_CHECKING:
    import keras

    Body = Callable[[keras.KerasTensor], keras.KerasTensor]

_TOPOLOGIES: dict[str, Body] = {}
_GRID = re.compile(r"conv([1-9]\d{0,3})x([1-9])(?:-dense([1-9]\d{0,4})x([1-9]))?")


def topology(name: str) -> Callable[[Body], Body]:
    """Register a function that takes scaled images (N, S, S, 3) 0..1 and gives features (N, F) for the last Dense."""

    def register(body: Body) -> Body:
        _TOPOLOGIES[name] = body
        return body

    return register


def names() -> list[str]:
    """The names of all topologies, sorted."""
    return sorted(_TOPOLOGIES)


def check(name: str) -> None:
    """Is there such a topology?

    Raises:
        ConfigurationError: there is none; the message lists the known ones.
    """
    for part in name.split("+"):
        _body(part)


def _body(name: str) -> Body:
    if name in _TOPOLOGIES:
        return _TOPOLOGIES[name]
    if found := _GRID.fullmatch(name):
        filters, convolutions, units, dense = (int(number or 0) for number in found.groups())
        return partial(_grid, filters=filters, convolutions=convolutions, units=units, dense=dense)
    known = ", ".join(names())
    raise ConfigurationError(f"no topology {name!r}; known: {known}, convFxN-denseUxM, and several joined by +")


def grid_name(filters: int, convolutions: int, units: int = 0, dense: int = 0) -> str:
    """The name of a network of the paper's search: so many convolutions of so many filters, and dense layers."""
    return f"conv{filters}x{convolutions}" + (f"-dense{units}x{dense}" if dense else "")


def build(name: str, image_size: int = SIZE) -> keras.Model:
    """An untrained network: images (N, 32, 32, 3), uint8 or float 0..255 → P(REAL) (N, 1).

    Args:
        name: one of `names()`, or `conv32x2-dense64x1` and the like, as `grid_name` makes them, or several such,
            joined by `+`: an ensemble.
        image_size: side the images are resized to inside the model, in pixels (bilinear, as Keras' loaders do);
            the paper feeds 224.

    Raises:
        ConfigurationError: unknown name, or a size too small for the topology.
    """
    import keras

    if "+" in name:
        from cifake_core.training import ensemble

        return ensemble.of([build(part, image_size) for part in name.split("+")])
    body = _body(name)
    inputs = keras.Input((SIZE, SIZE, 3), name="images")
    x = inputs
    if image_size != SIZE:
        x = keras.layers.Resizing(image_size, image_size, name="resize")(x)
    x = keras.layers.Rescaling(1 / 255, name="scale")(x)
    try:
        x = body(x)
    except ValueError as exc:
        raise ConfigurationError(f"topology {name!r} does not fit {image_size}×{image_size} images: {exc}") from exc
    x = keras.layers.Dense(1, name="logit", dtype="float32")(x)
    x = keras.layers.Activation("sigmoid", name="probability_real", dtype="float32")(x)
    return keras.Model(inputs, x, name=name.replace("-", "_"))


def blocks(model: keras.Model) -> list[str]:
    """Names of the layers that can be explained, from the input on."""
    return [layer.name for layer in model.layers if re.fullmatch(r"block\d+", layer.name)]


def attention(model: keras.Model) -> dict[str, keras.KerasTensor]:
    """Attention weights by layer, from the input on: (N, heads, to, from), and (N, from, 1) of the pooling; or none."""
    found = {layer.name: layer.output for layer in model.layers if re.fullmatch(r"attention\d+", layer.name)}
    return {name: output[1] if isinstance(output, (list, tuple)) else output for name, output in found.items()}


@topology("seed")
def _seed(x: keras.KerasTensor) -> keras.KerasTensor:
    """Three unpadded 3×3 convolutions of 32, 64 and 128, each max-pooled; dense 128."""
    from keras import layers

    for number, filters in enumerate((32, 64, 128), start=1):
        x = layers.Conv2D(filters, 3, activation="relu", name=f"block{number}")(x)
        x = layers.MaxPooling2D(2)(x)
    return layers.Dense(128, activation="relu", name="dense1")(layers.Flatten()(x))


def _grid(x: keras.KerasTensor, filters: int, convolutions: int, units: int = 0, dense: int = 0) -> keras.KerasTensor:
    """Padded 3×3 convolutions of equal width, each max-pooled, and dense layers of equal width.

    The networks that Bird & Lotfi 2024 search (https://doi.org/10.1109/ACCESS.2024.3356122).
    """
    from keras import layers

    for number in range(1, convolutions + 1):
        x = layers.Conv2D(filters, 3, padding="same", activation="relu", name=f"block{number}")(x)
        x = layers.MaxPooling2D(2)(x)
    x = layers.Flatten()(x)
    for number in range(1, dense + 1):
        x = layers.Dense(units, activation="relu", name=f"dense{number}")(x)
    return x


@topology("bird-lotfi")
def _bird_lotfi(x: keras.KerasTensor) -> keras.KerasTensor:
    """The best topology of the paper's search: 141,345 weights at 32×32."""
    return _grid(x, filters=32, convolutions=2, units=64, dense=1)


def _convolution(x: keras.KerasTensor, filters: int, name: str | None = None) -> keras.KerasTensor:
    """Padded 3×3 convolution, batch normalisation, ReLU; stride 1, for the evidence is fine detail."""
    from keras import layers

    x = layers.Conv2D(filters, 3, padding="same", use_bias=False, kernel_initializer="he_normal")(x)
    return layers.ReLU(name=name)(layers.BatchNormalization(momentum=0.9)(x))


def _spectrum(x: keras.KerasTensor, filters: int) -> keras.KerasTensor:
    """A first convolution, strided, that starts as the cosine transform of 4×4 pixels in opponent colours.

    Each frequency is then normalised on its own: fine detail, which random filters drown in brightness, is seen from
    the first step on. `filters` of 4·4·3, in the order brightness, red-green, blue-yellow, each from low frequencies.
    """
    import numpy as np
    from keras import layers
    from scipy.fft import dct

    wave = dct(np.eye(4), norm="ortho", axis=0)
    colours = np.array([[1, 1, 1], [1, -1, 0], [-1, -1, 2]]) / np.sqrt([[3], [2], [6]])
    convolution = layers.Conv2D(filters, 4, 2, padding="same", use_bias=False)
    y = convolution(x)
    convolution.kernel.assign(np.einsum("ay,bx,cr->yxrcab", wave, wave, colours).reshape(4, 4, 3, 48)[..., :filters])
    return layers.ReLU()(layers.BatchNormalization(momentum=0.9)(y))


def _residual(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    """Two convolutions beside the identity (He et al. 2016, https://arxiv.org/abs/1512.03385)."""
    from keras import layers

    filters = x.shape[-1]
    y = _convolution(x, filters)
    y = layers.Conv2D(filters, 3, padding="same", use_bias=False, kernel_initializer="he_normal")(y)
    y = layers.BatchNormalization(momentum=0.9, gamma_initializer="zeros")(y)
    return layers.ReLU(name=name)(layers.Add()([x, y]))


def _mean_and_maximum(x: keras.KerasTensor) -> keras.KerasTensor:
    from keras import layers

    return layers.Concatenate()([layers.GlobalAveragePooling2D()(x), layers.GlobalMaxPooling2D()(x)])


def _half(x: keras.KerasTensor, widths: tuple[int, int, int], early: int, late: int = 1) -> keras.KerasTensor:
    """At half resolution from the first, strided convolution on (more channels than it halves: no detail is lost).

    Then a quarter. `early` and `late` are the residual pairs at each.
    """
    from keras import layers

    first, half, quarter = widths
    x = _convolution(_spectrum(x, first), half, name=None if early else "block1")
    for number in range(1, early + 1):
        x = _residual(x, f"block{number}")
    x = _convolution(layers.MaxPooling2D(2)(x), quarter)
    for number in range(1, late + 1):
        x = _residual(x, f"block{max(early, 1) + number}")
    return _mean_and_maximum(x)


@topology("house-xs")
def _house_xs(x: keras.KerasTensor) -> keras.KerasTensor:
    """The quick house detector."""
    return _half(x, (36, 48, 80), early=0)


@topology("house-s")
def _house_s(x: keras.KerasTensor) -> keras.KerasTensor:
    """The small house detector: under 300,000 weights."""
    return _half(x, (48, 48, 96), early=1)


@topology("house-m")
def _house_m(x: keras.KerasTensor) -> keras.KerasTensor:
    """The larger house detector: under 1,200,000 weights."""
    return _half(x, (48, 96, 144), early=1, late=2)


@topology("efficientnet-b0")
def _efficientnet_b0(x: keras.KerasTensor) -> keras.KerasTensor:
    """EfficientNet-B0 from scratch, for comparison only: it halves 32×32 images five times."""
    from cifake_core.training import efficientnet

    return efficientnet.features(x)


@topology("cct")
def _cct(x: keras.KerasTensor) -> keras.KerasTensor:
    """The attention network: a compact convolutional transformer of four layers, under 500,000 weights."""
    from cifake_core.training import cct

    return cct.features(x)
