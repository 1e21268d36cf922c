"""Small networks, one for each kind of layer that a topology may use. Importing this imports TensorFlow."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf
from keras import layers


def conv(x: keras.KerasTensor, number: int, filters: int = 6, activation: str = "relu", **options) -> keras.KerasTensor:
    x = layers.Conv2D(filters, 3, padding="same", **options)(x)
    return layers.Activation(activation, name=f"block{number}")(x)


def batch_norm(x):
    x = layers.BatchNormalization()(layers.Conv2D(6, 3, use_bias=False)(x))
    x = layers.MaxPooling2D(2)(layers.Activation("relu", name="block1")(x))
    return layers.Flatten()(conv(x, 2, 8))


def residual(x):
    x = conv(x, 1)
    x = layers.ReLU(name="block2")(
        layers.Add()([x, layers.BatchNormalization()(layers.Conv2D(6, 3, padding="same")(x))])
    )
    return layers.GlobalAveragePooling2D()(x)


def average_pool(x):
    x = layers.AveragePooling2D(3, strides=2, padding="same")(conv(x, 1))
    return layers.Flatten()(layers.AveragePooling2D(2)(conv(x, 2)))


def concat(x):
    x = conv(x, 1)
    x = layers.Concatenate()([conv(x, 2, 4), layers.Conv2D(5, 1)(x)])
    return layers.GlobalMaxPooling2D()(conv(x, 3))


def overlapping_pool(x):
    x = layers.MaxPooling2D(3, strides=2)(conv(x, 1))
    return layers.Flatten()(layers.MaxPooling2D(3, strides=2, padding="same")(conv(x, 2)))


def strided(x):
    x = conv(x, 1, strides=2)
    x = layers.DepthwiseConv2D(3, strides=2, padding="same")(x)
    return layers.Flatten()(conv(x, 2))


def squeeze_excite(x):
    x = conv(x, 1, 8, "silu")
    gate = layers.Dense(8, activation="sigmoid")(layers.Dense(4, activation="gelu")(layers.GlobalAveragePooling2D()(x)))
    x = layers.Multiply()([x, layers.Reshape((1, 1, 8))(gate)])
    return layers.GlobalAveragePooling2D()(conv(x, 2, 8, "silu"))


def dropped(x):
    return layers.Dropout(0.5)(layers.Flatten()(conv(x, 1)))


def network(body: Callable) -> keras.Model:
    """A small network with random weights, batch statistics included."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((32, 32, 3), name="images")
    x = layers.Dense(1, name="logit")(body(layers.Rescaling(1 / 255, name="scale")(inputs)))
    model = keras.Model(inputs, layers.Activation("sigmoid", name="probability_real")(x), name=body.__name__)
    rng = np.random.default_rng(1)
    for weight in model.weights:
        if weight.path.endswith(("moving_variance", "gamma")):
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
        elif weight.path.endswith(("moving_mean", "beta")):
            weight.assign(rng.uniform(-0.1, 0.1, weight.shape))
    return model


class OtherwiseInGraphs(layers.Layer):
    """Computes one thing eagerly and another when traced, as a careless layer may."""

    def call(self, x):
        return x if tf.executing_eagerly() else x * 1.001


def otherwise_in_graphs(x):
    return OtherwiseInGraphs()(dropped(x))


def sine(x):
    return keras.ops.sin(dropped(x))


def grouped(x):
    return layers.Flatten()(conv(conv(x, 1), 2, groups=2))  # a compiled function inside Keras


def dangling(x):
    return layers.Flatten()(x + keras.ops.stop_gradient(conv(x, 1, 3)))
