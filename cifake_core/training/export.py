"""Keras model → bundle: a score graph and an explanation graph, refused unless they agree with Keras."""

from __future__ import annotations

import logging
import os
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from cifake_core import bundle
from cifake_core.errors import ModelError
from cifake_core.monitoring import drift, features
from cifake_core.training import topologies
from cifake_core.training.onnx_gradients import append_gradients

if TYPE_CHECKING:
    import keras

OPSET = 18
TOLERANCE = 1e-4
# Images whose maps may differ by more: where two float activations tie to the last bit, in flat areas, TensorFlow
# and ONNX Runtime may pick different winners of a max-pool, and both maps are right.
TIED_IMAGES = 0.1
PARITY_EXAMPLES = 32
REFERENCE_ROWS = 10_000

log = logging.getLogger(__name__)


def export(
    model: keras.Model,
    folder: Path,
    images: np.ndarray,
    *,
    topology: str,
    dataset_version: str,
    reference: np.ndarray | None = None,
    **info: Any,
) -> bundle.BundleInfo:
    """Write the bundle of a trained model, after checking both graphs against Keras on real images.

    Args:
        model: as `topologies.build` makes it, float32.
        folder: where the bundle goes; replaced as a whole, or left as it was on failure.
        images: (K, 32, 32, 3) uint8, real images to compare on; the first 32 are kept as the parity examples.
        reference: (M, 32, 32, 3) uint8, images that training did not see: what the service's traffic is held to.
        info: further fields of `BundleInfo` (run_id, seed, threshold, extra …).

    Raises:
        ModelError: a graph cannot be made or disagrees with Keras by more than 1e-4.
    """
    images = np.ascontiguousarray(images[:PARITY_EXAMPLES])
    if not len(images):
        raise ModelError("a bundle needs at least one real image to check its graphs on")
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    expected = keras_outputs(model, images)
    onnx.save(score_graph(model), str(partial / "score.onnx"))
    onnx.save(explanation_graph(model), str(partial / "explain.onnx"))
    np.savez(partial / "parity.npz", images=images, probability_real=expected["probability_real"])
    check_parity(partial, expected, images)
    files = ["score.onnx", "explain.onnx", "parity.npz"]
    if reference is not None and len(reference):
        profile = reference_profile(partial / "score.onnx", reference[:REFERENCE_ROWS])
        (partial / bundle.REFERENCE).write_text(profile.model_dump_json())
        files.append(bundle.REFERENCE)
    names = topologies.blocks(model)
    written = bundle.BundleInfo(
        topology=topology,
        image_size=images.shape[1],
        parameters=model.count_params(),
        dataset_version=dataset_version,
        blocks=[
            bundle.Block(name=name, height=height, width=width, channels=channels)
            for name in names
            for _, height, width, channels in [expected[f"activations_{name}"].shape]
        ],
        sha256={name: bundle.sha256(partial / name) for name in files},
        **info,
    )
    (partial / bundle.FILE).write_text(written.model_dump_json(indent=2))
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)
    return written


def reference_profile(graph: Path, images: np.ndarray) -> drift.ReferenceProfile:
    """Deciles of the monitored features and of the scores of images (M, 32, 32, 3) uint8."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    parts = []
    for start in range(0, len(images), 512):
        pixels = np.ascontiguousarray(images[start : start + 512])
        scores = session.run(["probability_real"], {"images": pixels})[0]
        parts.append({**features.measure(pixels), features.SCORE: scores})
    return drift.reference_profile({name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, 10)


def score_graph(model: keras.Model) -> onnx.ModelProto:
    """Images (N, S, S, 3) uint8 → `logit` (N,), `probability_real` (N,)."""
    return _convert(model, {name: model.get_layer(name).output for name in ("logit", "probability_real")})


def explanation_graph(model: keras.Model) -> onnx.ModelProto:
    """Images → `logit` (N,) and per block `activations_b`, `gradients_b` (N, h, w, c): a forward and a reverse pass.

    And per layer of attention its weights, `attention1`, …, as `topologies.attention` has them.

    Raises:
        ModelError: an operator of the network has no gradient rule; it is named.
    """
    blocks = topologies.blocks(model)
    wanted = {"logit": model.get_layer("logit").output}
    wanted |= {f"activations_{name}": model.get_layer(name).output for name in blocks}
    forward = _convert(model, wanted | topologies.attention(model))
    graph, gradients = append_gradients(forward, "logit", [f"activations_{name}" for name in blocks])
    outputs = {output.name: output for output in graph.graph.output}
    for name, gradient in zip(blocks, gradients, strict=True):
        target = f"gradients_{name}"
        graph.graph.node.append(onnx.helper.make_node("Identity", [gradient], [target], name=target))
        output = onnx.ValueInfoProto()
        output.CopyFrom(outputs[f"activations_{name}"])
        output.name = target
        graph.graph.output.append(output)
    del graph.graph.value_info[:]
    onnx.checker.check_model(graph)
    return graph


def _convert(model: keras.Model, wanted: Mapping[str, keras.KerasTensor]) -> onnx.ModelProto:
    """A graph whose outputs are those of the model's tensors, by these names; (N, 1) ones come out as (N,)."""
    import keras
    import tensorflow as tf

    several = keras.Model(model.inputs, list(wanted.values()))

    def forward(images: tf.Tensor) -> list[tf.Tensor]:
        outputs = several(tf.cast(images, tf.float32), training=False)
        return [tf.reshape(output, [-1]) if output.shape.rank == 2 else tf.identity(output) for output in outputs]

    signature = tf.TensorSpec([None, *model.input_shape[1:]], tf.uint8, name="images")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)  # what it cannot convert is named below
        import tf2onnx

        try:
            graph, _ = tf2onnx.convert.from_function(tf.function(forward), [signature], opset=OPSET)
        except Exception as exc:  # tf2onnx raises whatever its handlers raise
            raise ModelError(f"{model.name} does not convert to ONNX: {str(exc).splitlines()[0]}") from exc
    names = {output.name: name for output, name in zip(graph.graph.output, wanted, strict=True)}
    for node in graph.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for value in (*graph.graph.input, *graph.graph.output):
        value.name = names.get(value.name, value.name)
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    _replace_erfc(graph.graph)
    for node in graph.graph.node:
        if not node.domain and not onnx.defs.has(node.op_type):
            raise ModelError(f"{model.name} does not convert to ONNX: no counterpart of {node.op_type} ({node.name})")
    graph.doc_string = f"{model.name}: {', '.join(wanted)}"
    return graph


def _replace_erfc(graph: onnx.GraphProto) -> None:
    """Write erfc as 1 - erf: TensorFlow's exact GELU uses it, ONNX has none, and tf2onnx passes it through."""
    if not any(node.op_type == "Erfc" for node in graph.node):
        return
    graph.initializer.append(onnx.numpy_helper.from_array(np.ones((), np.float32), "erfc/one"))
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        if node.op_type == "Erfc":
            graph.node.append(onnx.helper.make_node("Erf", node.input, [f"{node.output[0]}/erf"]))
            node = onnx.helper.make_node("Sub", ["erfc/one", f"{node.output[0]}/erf"], node.output, name=node.name)
        graph.node.append(node)


def keras_outputs(model: keras.Model, images: np.ndarray) -> dict[str, np.ndarray]:
    """What Keras and `tf.GradientTape` give for images (K, S, S, 3): every output of both graphs, by name.

    Raises:
        ModelError: a block's output does not reach the logit.
    """
    import keras
    import tensorflow as tf

    blocks = topologies.blocks(model)
    layers = [*blocks, "logit", "probability_real"]
    attention = topologies.attention(model)
    several = keras.Model(model.inputs, [*(model.get_layer(layer).output for layer in layers), *attention.values()])
    pixels = tf.convert_to_tensor(images, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(pixels)
        outputs = dict(zip([*layers, *attention], several(pixels, training=False), strict=True))
    gradients = tape.gradient(outputs["logit"], [outputs[name] for name in blocks])
    found = {name: outputs[name].numpy()[:, 0] for name in ("logit", "probability_real")}
    found |= {name: outputs[name].numpy() for name in attention}
    for name, gradient in zip(blocks, gradients, strict=True):
        if gradient is None:
            raise ModelError(f"the logit of {model.name} does not depend on {name!r}; it cannot be explained")
        found |= {f"activations_{name}": outputs[name].numpy(), f"gradients_{name}": gradient.numpy()}
    return found


def check_parity(folder: Path, expected: Mapping[str, np.ndarray], images: np.ndarray) -> dict[str, float]:
    """Compare both graphs with Keras; the worst difference per output, each image relative to its largest value.

    Raises:
        ModelError: an output differs by more than 1e-4; the message names it.
    """
    import onnxruntime

    worst: dict[str, float] = {}
    for file in ("score.onnx", "explain.onnx"):
        try:
            session = onnxruntime.InferenceSession(str(folder / file), providers=["CPUExecutionProvider"])
            names = [output.name for output in session.get_outputs()]
            found = dict(zip(names, session.run(names, {"images": images}), strict=True))
        except Exception as exc:  # onnxruntime's errors have no public common base
            raise ModelError(f"{file} does not run: {str(exc).splitlines()[0]}") from exc
        for name, got in found.items():
            want = expected[name]
            if got.shape != want.shape:
                raise ModelError(f"{file}: {name} has shape {got.shape}, Keras gives {want.shape}")
            far = _difference(got, want)
            allowed = 1 - TIED_IMAGES if name.startswith("gradients_") else 1
            worst[name] = float(np.quantile(far, allowed))
            log.debug("%s %s differs by %.2g", file, name, worst[name])
            if not worst[name] <= TOLERANCE:
                raise ModelError(
                    f"{file}: {name} differs from Keras by {worst[name]:.2g} (at most {TOLERANCE} allowed)"
                )
    return worst


def _difference(got: np.ndarray, want: np.ndarray) -> np.ndarray:
    """Per image, the largest difference over the largest value; over 1 where that is larger, for one value an image."""
    axes = tuple(range(1, want.ndim))
    scale = np.abs(want).max(axis=axes) if axes else np.maximum(np.abs(want), 1)
    difference = np.abs(got - want)
    return (difference.max(axis=axes) if axes else difference) / np.maximum(scale, 1e-12)
