"""Exported graphs say what Keras says, for every kind of layer a topology may use; otherwise nothing is exported."""

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import onnx
import pytest
import tensorflow as tf
from keras import layers
from onnx import numpy_helper

from cifake_core.bundle import Detector
from cifake_core.errors import ModelError
from cifake_core.training import export, topologies

NAMED = {"topology": "test", "dataset_version": "0123456789abcdef"}


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


BODIES = (batch_norm, residual, average_pool, concat, overlapping_pool, strided, squeeze_excite, dropped)


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


def assert_says_what_keras_says(folder: Path, model: keras.Model, images: np.ndarray) -> None:
    detector, expected = Detector(folder, threads=1), export.keras_outputs(model, images)
    found = detector.explain(images)
    np.testing.assert_allclose(found.logits, expected["logit"], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(detector.probability_real(images), expected["probability_real"], atol=1e-5)
    for block in detector.info.blocks:
        for kind, got in (("activations", found.activations), ("gradients", found.gradients)):
            want = expected[f"{kind}_{block.name}"]
            assert got[block.name].shape == want.shape == (len(images), block.height, block.width, block.channels)
            np.testing.assert_allclose(got[block.name], want, rtol=1e-3, atol=1e-4 * np.abs(want).max())
            assert np.abs(want).max() > 0


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.__name__)
def test_an_exported_bundle_agrees_with_keras(body, rows, tmp_path):
    model = network(body)
    export.export(model, tmp_path / "detector", rows.images, **NAMED)
    assert_says_what_keras_says(tmp_path / "detector", model, rows.images[:4])


@pytest.mark.parametrize("name", topologies.names())
def test_every_topology_exports(name, rows, tmp_path):
    keras.utils.set_random_seed(0)
    info = export.export(topologies.build(name), tmp_path / "detector", rows.images, **NAMED | {"topology": name})
    assert info.topology == name
    assert [block.name for block in Detector(tmp_path / "detector").info.blocks] == [
        block.name for block in info.blocks
    ]


def test_a_trained_networks_gradients_are_those_of_a_tape_on_its_upper_part(trained_bundle, rows):
    model = keras.saving.load_model(trained_bundle.parent / "model.keras")
    found = Detector(trained_bundle).explain(rows.images)
    for name in topologies.blocks(model):
        lower = keras.Model(model.inputs, model.get_layer(name).output)
        upper = keras.Model(model.get_layer(name).output, model.get_layer("logit").output)
        activations = lower(tf.convert_to_tensor(rows.images, tf.float32))
        with tf.GradientTape() as tape:
            tape.watch(activations)
            logit = upper(activations)
        want = tape.gradient(logit, activations).numpy()
        np.testing.assert_allclose(found.activations[name], activations, atol=1e-5)
        off = np.abs(found.gradients[name] - want).max(axis=(1, 2, 3)) / np.abs(want).max()
        assert (off < 1e-4).mean() >= 0.9, "more images than max-pooling's near-ties explain"


def test_pooling_ties_send_the_gradient_to_one_element_as_in_tensorflow(tmp_path):
    flat = np.full((2, 32, 32, 3), 128, np.uint8)
    flat[1, :, 16:] = 20
    model = network(overlapping_pool)
    export.export(model, tmp_path / "detector", flat, **NAMED)
    assert_says_what_keras_says(tmp_path / "detector", model, flat)


def test_a_graph_with_other_weights_than_keras_is_refused(tmp_path, rows):
    model = network(batch_norm)
    export.export(model, tmp_path / "detector", rows.images, **NAMED)
    expected = export.keras_outputs(model, rows.images)
    assert max(export.check_parity(tmp_path / "detector", expected, rows.images).values()) <= export.TOLERANCE
    graph = onnx.load(tmp_path / "detector" / "explain.onnx")
    kernel = max(graph.graph.initializer, key=lambda tensor: len(tensor.dims) * 1000 + len(tensor.raw_data))
    changed = numpy_helper.to_array(kernel) * 1.01
    kernel.CopyFrom(numpy_helper.from_array(changed.astype(np.float32), kernel.name))
    onnx.save(graph, tmp_path / "detector" / "explain.onnx")
    with pytest.raises(ModelError, match=r"explain.onnx: \w+ differs from Keras by"):
        export.check_parity(tmp_path / "detector", expected, rows.images)


class OtherwiseInGraphs(layers.Layer):
    """Computes one thing eagerly and another when traced, as a careless layer may."""

    def call(self, x):
        return x if tf.executing_eagerly() else x * 1.001


def test_a_network_that_changes_when_traced_is_refused_and_the_bundle_before_stays(tmp_path, rows):
    folder = tmp_path / "detector"
    before = export.export(network(dropped), folder, rows.images, **NAMED)
    with pytest.raises(ModelError, match=r"score.onnx: logit differs from Keras by"):
        export.export(network(lambda x: OtherwiseInGraphs()(dropped(x))), folder, rows.images, **NAMED)
    assert Detector(folder).info == before


def test_an_operator_without_a_gradient_rule_is_named(tmp_path, rows):
    model = network(lambda x: keras.ops.sin(dropped(x)))
    with pytest.raises(ModelError, match=r"operator Sin \(.*\) has no gradient rule"):
        export.export(model, tmp_path / "detector", rows.images, **NAMED)
    assert not (tmp_path / "detector").exists()


def test_an_operator_that_onnx_does_not_have_is_named(tmp_path, rows):
    model = network(lambda x: layers.Flatten()(conv(conv(x, 1), 2, groups=2)))  # a compiled function inside Keras
    with pytest.raises(ModelError, match="does not convert to ONNX: no counterpart of StatefulPartitionedCall"):
        export.export(model, tmp_path / "detector", rows.images, **NAMED)


def test_a_block_that_does_not_reach_the_logit_is_named(tmp_path, rows):
    def dangling(x):
        return layers.Flatten()(x + keras.ops.stop_gradient(conv(x, 1, 3)))

    with pytest.raises(ModelError, match="the logit of dangling does not depend on 'block1'"):
        export.export(network(dangling), tmp_path / "detector", rows.images, **NAMED)
