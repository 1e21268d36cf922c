"""A compact convolutional transformer: convolutions make tokens, attention mixes them, attention pools them.

Hassani et al. 2021, https://arxiv.org/abs/2104.05704, in the shape of their CCT-4/3×2. What the tokeniser and each
encoder layer give is reshaped to maps, the layers `block1`, `block2`, …, and everything after goes through them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import keras


def features(
    x: keras.KerasTensor, width: int = 128, layers: int = 4, heads: int = 2, tokeniser: tuple[int, ...] = (64, 128)
) -> keras.KerasTensor:
    """Scaled images (N, S, S, 3) to features (N, width).

    Args:
        width: of a token.
        layers: encoder layers; their attention weights are the second output of `attention1`, ….
        tokeniser: filters of its 3×3 convolutions, each with ReLU and max-pooling by 2.
    """
    from keras import initializers
    from keras import layers as nn

    for filters in tokeniser:
        x = nn.Conv2D(filters, 3, padding="same", use_bias=False, kernel_initializer="he_normal", activation="relu")(x)
        x = nn.MaxPooling2D(3, strides=2, padding="same")(x)
    x = nn.Activation("linear", name="block1")(x)
    height, breadth, channels = x.shape[1:]
    x = nn.Reshape((height * breadth, channels))(x)
    # A linear projection whose bias differs from place to place: the learned position.
    position = initializers.TruncatedNormal(stddev=0.2)
    x = nn.EinsumDense("nti,io->nto", (height * breadth, width), bias_axes="to", bias_initializer=position)(x)
    for number in range(1, layers + 1):
        x = _encoder(x, number, heads)
        x = nn.Reshape((height, breadth, width), name=f"block{number + 1}")(x)
        x = nn.Reshape((height * breadth, width))(x)
    x = nn.LayerNormalization()(x)
    share = nn.Softmax(axis=1, name=f"attention{layers + 1}")(_dense(x, 1))
    return nn.Flatten()(nn.Dot(axes=1)([share, x]))


def _encoder(x: keras.KerasTensor, number: int, heads: int) -> keras.KerasTensor:
    """Self-attention and a perceptron, each beside the identity and normalised before."""
    from keras import layers as nn

    width = x.shape[-1]
    y = nn.LayerNormalization()(x)
    attend = nn.MultiHeadAttention(heads, width // heads, name=f"attention{number}")
    y, _ = attend(y, y, return_attention_scores=True)
    x = nn.Add()([x, y])
    y = _dense(nn.LayerNormalization()(x), width, "gelu")
    return nn.Add()([x, _dense(y, width)])


def _dense(x: keras.KerasTensor, units: int, activation: str | None = None) -> keras.KerasTensor:
    """A dense layer on each token, as one product of matrices: `Dense` computes shapes on the way."""
    from keras import layers as nn

    return nn.EinsumDense("nti,io->nto", (x.shape[1], units), bias_axes="o", activation=activation)(x)
