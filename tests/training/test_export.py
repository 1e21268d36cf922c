"""Exported graphs say what Keras says, for every kind of layer a topology may use; otherwise nothing is exported."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cifake_core.bundle import Detector
from cifake_core.errors import ModelError
from cifake_core.explain import cams
from cifake_core.explain.rollout import rollout
from cifake_core.training import export, topologies
from cifake_core.training.fit import fit
from cifake_core.training.options import Options

if TYPE_CHECKING:
    import keras

NAMED = {"topology": "test", "dataset_version": "0123456789abcdef"}
BODIES = (
    *("batch_norm", "residual", "average_pool", "concat", "overlapping_pool", "strided", "squeeze_excite", "dropped"),
)
OTHERS = ("efficientnet-b0", "cct")  # trained for a step and compared more closely, for they are the deepest


@pytest.fixture(scope="module")
def networks() -> ModuleType:
    """`tests.training.networks`, imported here so that processes which only collect these tests need no TensorFlow."""
    from tests.training import networks

    return networks


def assert_says_what_keras_says(folder: Path, model: keras.Model, images: np.ndarray) -> None:
    detector, expected = Detector(folder, threads=1), export.keras_outputs(model, images)
    found = detector.explain(images)
    assert list(found.attention) == list(detector.attention) == list(topologies.attention(model))
    for name, weights in found.attention.items():
        assert weights.min() >= 0
        np.testing.assert_allclose(weights.sum(1 if weights.shape[-1] == 1 else -1), 1, atol=1e-5)
        np.testing.assert_allclose(weights, expected[name], atol=1e-5)
    np.testing.assert_allclose(found.logits, expected["logit"], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(detector.probability_real(images), expected["probability_real"], atol=1e-5)
    for block in detector.info.blocks:
        for kind, got in (("activations", found.activations), ("gradients", found.gradients)):
            want = expected[f"{kind}_{block.name}"]
            assert got[block.name].shape == want.shape == (len(images), block.height, block.width, block.channels)
            np.testing.assert_allclose(got[block.name], want, rtol=1e-3, atol=1e-4 * np.abs(want).max())
            assert np.abs(want).max() > 0


@pytest.mark.parametrize("body", BODIES)
def test_an_exported_bundle_agrees_with_keras(networks, body, rows, tmp_path):
    model = networks.network(getattr(networks, body))
    export.export(model, tmp_path / "detector", rows.images, **NAMED)
    assert_says_what_keras_says(tmp_path / "detector", model, rows.images[:4])


@pytest.mark.parametrize("name", sorted({*topologies.names()} - {*OTHERS}))
def test_every_topology_exports(name, rows, tmp_path):
    import keras

    keras.utils.set_random_seed(0)
    info = export.export(topologies.build(name), tmp_path / "detector", rows.images, **NAMED | {"topology": name})
    assert info.topology == name
    assert [block.name for block in Detector(tmp_path / "detector").info.blocks] == [
        block.name for block in info.blocks
    ]


@pytest.mark.parametrize("name", OTHERS)
def test_a_network_of_others_trains_exports_and_says_what_keras_says(name, rows, tmp_path):
    model = fit(Options(topology=name, epochs=1, batch_size=16), rows).model
    export.export(model, tmp_path / "detector", rows.images, **NAMED | {"topology": name})
    assert_says_what_keras_says(tmp_path / "detector", model, rows.images[:4])


def test_a_transformers_rollout_changes_with_random_weights(rows):
    import keras

    maps = []
    for seed in (0, 1):
        keras.utils.set_random_seed(seed)
        model = topologies.build("cct")
        outputs = export.keras_outputs(model, rows.images[:4])
        maps.append(cams.normalise(rollout([outputs[name] for name in topologies.attention(model)])))
    assert np.abs(maps[0] - maps[1]).mean() > 0.05


def test_a_trained_networks_gradients_are_those_of_a_tape_on_its_upper_part(trained_bundle, rows):
    import keras
    import tensorflow as tf

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


def test_pooling_ties_send_the_gradient_to_one_element_as_in_tensorflow(networks, tmp_path):
    flat = np.full((2, 32, 32, 3), 128, np.uint8)
    flat[1, :, 16:] = 20
    model = networks.network(networks.overlapping_pool)
    export.export(model, tmp_path / "detector", flat, **NAMED)
    assert_says_what_keras_says(tmp_path / "detector", model, flat)


def test_a_graph_with_other_weights_than_keras_is_refused(networks, tmp_path, rows):
    import onnx
    from onnx import numpy_helper

    model = networks.network(networks.batch_norm)
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


def test_a_network_that_changes_when_traced_is_refused_and_the_bundle_before_stays(networks, tmp_path, rows):
    folder = tmp_path / "detector"
    before = export.export(networks.network(networks.dropped), folder, rows.images, **NAMED)
    with pytest.raises(ModelError, match=r"score.onnx: logit differs from Keras by"):
        export.export(networks.network(networks.otherwise_in_graphs), folder, rows.images, **NAMED)
    assert Detector(folder).info == before


def test_an_operator_without_a_gradient_rule_is_named(networks, tmp_path, rows):
    model = networks.network(networks.sine)
    with pytest.raises(ModelError, match=r"operator Sin \(.*\) has no gradient rule"):
        export.export(model, tmp_path / "detector", rows.images, **NAMED)
    assert not (tmp_path / "detector").exists()


def test_an_operator_that_onnx_does_not_have_is_named(networks, tmp_path, rows):
    model = networks.network(networks.grouped)
    with pytest.raises(ModelError, match="does not convert to ONNX: no counterpart of StatefulPartitionedCall"):
        export.export(model, tmp_path / "detector", rows.images, **NAMED)


def test_a_block_that_does_not_reach_the_logit_is_named(networks, tmp_path, rows):
    with pytest.raises(ModelError, match="the logit of dangling does not depend on 'block1'"):
        export.export(networks.network(networks.dangling), tmp_path / "detector", rows.images, **NAMED)
