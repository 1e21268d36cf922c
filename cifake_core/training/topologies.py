"""Network shapes by name.

Every topology takes 32×32 RGB pixels 0..255, scales them inside the model, and ends in `logit` and
`probability_real`. The post-activation outputs worth explaining are layers named `block1`, `block2`, …
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from cifake_core.errors import ConfigurationError
from cifake_core.images.codec import SIZE

if TYPE_CHECKING:
    import keras

    Body = Callable[[keras.KerasTensor], keras.KerasTensor]

_TOPOLOGIES: dict[str, Body] = {}


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
    if name not in _TOPOLOGIES:
        raise ConfigurationError(f"no topology {name!r}; known: {', '.join(names())}")


def build(name: str, image_size: int = SIZE) -> keras.Model:
    """An untrained network: images (N, 32, 32, 3), uint8 or float 0..255 → P(REAL) (N, 1).

    Args:
        name: one of `names()`.
        image_size: side the images are resized to inside the model, in pixels (bilinear, as Keras' loaders do);
            the paper feeds 224.

    Raises:
        ConfigurationError: unknown name, or a size too small for the topology.
    """
    import keras

    check(name)
    inputs = keras.Input((SIZE, SIZE, 3), name="images")
    x = inputs
    if image_size != SIZE:
        x = keras.layers.Resizing(image_size, image_size, name="resize")(x)
    x = keras.layers.Rescaling(1 / 255, name="scale")(x)
    try:
        x = _TOPOLOGIES[name](x)
    except ValueError as exc:
        raise ConfigurationError(f"topology {name!r} does not fit {image_size}×{image_size} images: {exc}") from exc
    x = keras.layers.Dense(1, name="logit", dtype="float32")(x)
    x = keras.layers.Activation("sigmoid", name="probability_real", dtype="float32")(x)
    return keras.Model(inputs, x, name=name.replace("-", "_"))


def blocks(model: keras.Model) -> list[str]:
    """Names of the layers that can be explained, from the input on."""
    return [layer.name for layer in model.layers if layer.name.startswith("block") and layer.name[5:].isdigit()]


@topology("seed")
def _seed(x: keras.KerasTensor) -> keras.KerasTensor:
    """Three unpadded 3×3 convolutions of 32, 64 and 128, each max-pooled; dense 128."""
    from keras import layers

    for number, filters in enumerate((32, 64, 128), start=1):
        x = layers.Conv2D(filters, 3, activation="relu", name=f"block{number}")(x)
        x = layers.MaxPooling2D(2)(x)
    return layers.Dense(128, activation="relu", name="dense1")(layers.Flatten()(x))


@topology("bird-lotfi")
def _bird_lotfi(x: keras.KerasTensor) -> keras.KerasTensor:
    """Two padded 3×3 convolutions of 32, each max-pooled; dense 64.

    The best topology of Bird & Lotfi 2024 (https://doi.org/10.1109/ACCESS.2024.3356122): 141,345 weights at 32×32.
    """
    from keras import layers

    for number in (1, 2):
        x = layers.Conv2D(32, 3, padding="same", activation="relu", name=f"block{number}")(x)
        x = layers.MaxPooling2D(2)(x)
    return layers.Dense(64, activation="relu", name="dense1")(layers.Flatten()(x))


def _convolution(x: keras.KerasTensor, filters: int, size: int = 3, name: str | None = None) -> keras.KerasTensor:
    """Padded convolution, batch normalisation, ReLU; stride 1 everywhere, for the evidence sits in fine detail."""
    from keras import layers

    x = layers.Conv2D(filters, size, padding="same", use_bias=False, kernel_initializer="he_normal")(x)
    return layers.ReLU(name=name)(layers.BatchNormalization(momentum=0.9)(x))


def _residual(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    """Two convolutions beside the identity (He et al. 2016, https://arxiv.org/abs/1512.03385)."""
    from keras import layers

    filters = x.shape[-1]
    y = _convolution(x, filters)
    y = layers.Conv2D(filters, 3, padding="same", use_bias=False, kernel_initializer="he_normal")(y)
    y = layers.BatchNormalization(momentum=0.9, gamma_initializer="zeros")(y)
    return layers.ReLU(name=name)(layers.Add()([x, y]))


def _house(x: keras.KerasTensor, widths: tuple[int, int, int], repeats: tuple[int, int, int]) -> keras.KerasTensor:
    """Three stages at full, half and quarter resolution, each a convolution and residual pairs; mean and maximum."""
    from keras import layers

    number = 0
    for stage, (filters, pairs) in enumerate(zip(widths, repeats, strict=True)):
        if stage:
            x = layers.MaxPooling2D(2)(x)
        x = _convolution(x, filters, name=None if pairs else f"block{(number := number + 1)}")
        for _ in range(pairs):
            x = _residual(x, f"block{(number := number + 1)}")
    return layers.Concatenate()([layers.GlobalAveragePooling2D()(x), layers.GlobalMaxPooling2D()(x)])


@topology("house-s")
def _house_s(x: keras.KerasTensor) -> keras.KerasTensor:
    """The small house detector: under 300,000 weights."""
    return _house(x, (32, 64, 80), (1, 1, 1))


@topology("house-m")
def _house_m(x: keras.KerasTensor) -> keras.KerasTensor:
    """The larger house detector: under 1,200,000 weights."""
    return _house(x, (48, 96, 160), (1, 2, 1))
