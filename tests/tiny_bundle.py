"""A small but true model bundle, made by hand with ONNX operators: two convolution blocks and a dense head."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

SIZE, CHANNELS = 32, (4, 6)


def write_tiny_bundle(
    folder: Path,
    seed: int = 0,
    dataset_version: str = "0123456789abcdef",
    reference: np.ndarray | None = None,
    attention: bool = False,
) -> Path:
    """Write a bundle with random weights; another seed gives another model.

    With `reference`, (N, 32, 32, 3) uint8, it carries the profile of these images. With `attention`, a layer of
    attention and a pooling one stand in place of the dense head.
    """
    import onnxruntime

    from cifake_core.bundle import REFERENCE, Block, BundleInfo, sha256
    from cifake_core.monitoring import drift, features

    folder.mkdir(parents=True, exist_ok=True)
    weights, graph = _weights(seed), _graph
    if attention:
        weights, graph = weights | _attention_weights(seed), _attention_graph
    (folder / "score.onnx").write_bytes(graph(weights, explain=False))
    (folder / "explain.onnx").write_bytes(graph(weights, explain=True))
    images = np.random.default_rng(1).integers(0, 256, (8, SIZE, SIZE, 3), np.uint8)
    session = onnxruntime.InferenceSession(folder / "score.onnx", providers=["CPUExecutionProvider"])
    np.savez(
        folder / "parity.npz", images=images, probability_real=session.run(["probability_real"], {"images": images})[0]
    )
    files = ["score.onnx", "explain.onnx", "parity.npz"]
    if reference is not None:
        scores = session.run(["probability_real"], {"images": reference})[0]
        profile = drift.reference_profile({**features.measure(reference), features.SCORE: scores}, bins=10)
        (folder / REFERENCE).write_text(profile.model_dump_json())
        files.append(REFERENCE)
    info = BundleInfo(
        topology="tiny",
        parameters=sum(w.size for w in weights.values()),
        dataset_version=dataset_version,
        blocks=[
            Block(name="block1", height=16, width=16, channels=CHANNELS[0]),
            Block(name="block2", height=8, width=8, channels=CHANNELS[1]),
        ],
        sha256={name: sha256(folder / name) for name in files},
    )
    (folder / "detector.json").write_text(json.dumps(info.model_dump(mode="json")))
    return folder


def _weights(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    first, second = CHANNELS
    return {
        "w1": rng.normal(0, 0.4, (first, 3, 3, 3)).astype(np.float32),
        "w2": rng.normal(0, 0.4, (second, first, 3, 3)).astype(np.float32),
        "head": rng.normal(0, 0.1, (second, 8, 8)).astype(np.float32),
    }


def _attention_weights(seed: int) -> dict[str, np.ndarray]:
    rng, width = np.random.default_rng([seed, 1]), CHANNELS[1]
    return {
        "query": rng.normal(0, 2, (width, width)).astype(np.float32),
        "pool": rng.normal(0, 2, (width, 1)).astype(np.float32),
        "dense": rng.normal(0, 1, (width, 1)).astype(np.float32),
    }


def _graph(weights: dict[str, np.ndarray], *, explain: bool) -> bytes:
    """score(x) = <head, relu(conv2(relu(conv1(x/255))))>; the gradient is the same net backwards."""
    from onnx import TensorProto, checker, helper, numpy_helper

    node = helper.make_node
    convolution = {"strides": [2, 2], "pads": [0, 0, 1, 1], "kernel_shape": [3, 3]}
    nodes = [
        node("Cast", ["images"], ["cast"], to=TensorProto.FLOAT),
        node("Div", ["cast", "c255"], ["scaled"]),
        node("Transpose", ["scaled"], ["x"], perm=[0, 3, 1, 2]),
        node("Conv", ["x", "w1"], ["z1"], **convolution),
        node("Relu", ["z1"], ["a1"]),
        node("Conv", ["a1", "w2"], ["z2"], **convolution),
        node("Relu", ["z2"], ["a2"]),
        node("Mul", ["a2", "head"], ["product"]),
        node("ReduceSum", ["product", "axes"], ["logit"], keepdims=0),
    ]
    outputs = [helper.make_tensor_value_info("logit", TensorProto.FLOAT, ["n"])]
    constants = {**weights, "c255": np.float32(255), "axes": np.array([1, 2, 3])}
    if explain:
        constants["zero"] = np.float32(0)
        nodes += [
            node("Mul", ["a2", "zero"], ["zeros"]),
            node("Add", ["zeros", "head"], ["g2"]),
            node("Greater", ["a2", "zero"], ["on2"]),
            node("Where", ["on2", "g2", "zero"], ["gz2"]),
            node("ConvTranspose", ["gz2", "w2"], ["g1"], **convolution),
        ]
        for index, (size, channels) in enumerate(((16, CHANNELS[0]), (8, CHANNELS[1])), 1):
            for kind in "ag":
                name = f"{'activations' if kind == 'a' else 'gradients'}_block{index}"
                nodes.append(node("Transpose", [f"{kind}{index}"], [name], perm=[0, 2, 3, 1]))
                outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size, size, channels]))
    else:
        nodes.append(node("Sigmoid", ["logit"], ["probability_real"]))
        outputs.append(helper.make_tensor_value_info("probability_real", TensorProto.FLOAT, ["n"]))
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["n", SIZE, SIZE, 3])
    initialisers = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "tiny", [images], outputs, initialisers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def _attention_graph(weights: dict[str, np.ndarray], *, explain: bool) -> bytes:
    """The same convolutions; their 64 pixels are tokens of one attention beside the identity, then pooled."""
    import onnx
    from onnx import TensorProto, checker, helper, numpy_helper

    from cifake_core.training.onnx_gradients import append_gradients

    model = onnx.load_from_string(_graph(weights, explain=False))
    graph, node = model.graph, helper.make_node
    kept = [each for each in graph.node if each.output[0] not in ("product", "logit", "probability_real")]
    constants = [each for each in graph.initializer if each.name not in ("head", "axes")]
    del graph.node[:], graph.output[:], graph.initializer[:]
    graph.node.extend(kept)
    graph.node.extend(
        [
            *(node("Transpose", [f"a{i}"], [f"activations_block{i}"], perm=[0, 2, 3, 1]) for i in (1, 2)),
            node("Reshape", ["activations_block2", "rows"], ["tokens"]),
            node("Transpose", ["tokens"], ["keys"], perm=[0, 2, 1]),
            node("MatMul", ["tokens", "query"], ["queries"]),
            node("MatMul", ["queries", "keys"], ["likeness"]),
            node("Softmax", ["likeness"], ["attended"], axis=-1),
            node("Unsqueeze", ["attended", "one"], ["attention1"]),
            node("MatMul", ["attended", "tokens"], ["taken"]),
            node("Add", ["tokens", "taken"], ["mixed"]),
            node("MatMul", ["mixed", "pool"], ["importance"]),
            node("Softmax", ["importance"], ["attention2"], axis=1),
            node("Mul", ["mixed", "attention2"], ["shares"]),
            node("ReduceSum", ["shares", "one"], ["pooled"], keepdims=0),
            node("MatMul", ["pooled", "dense"], ["column"]),
            node("Reshape", ["column", "flat"], ["logit"]),
        ]
    )
    shapes = {"rows": [-1, 64, CHANNELS[1]], "one": [1], "flat": [-1]}
    constants += [numpy_helper.from_array(np.array(value), name) for name, value in shapes.items()]
    graph.initializer.extend(constants)
    outputs: dict[str, list[int]] = {"logit": []}
    if explain:
        blocks = {"block1": [16, 16, CHANNELS[0]], "block2": [8, 8, CHANNELS[1]]}
        outputs |= {"attention1": [1, 64, 64], "attention2": [64, 1]}
        outputs |= {f"activations_{name}": shape for name, shape in blocks.items()}
        model, gradients = append_gradients(model, "logit", [f"activations_{name}" for name in blocks])
        for gradient, (name, shape) in zip(gradients, blocks.items(), strict=True):
            model.graph.node.append(node("Identity", [gradient], [f"gradients_{name}"]))
            outputs[f"gradients_{name}"] = shape
    else:
        graph.node.append(node("Sigmoid", ["logit"], ["probability_real"]))
        outputs["probability_real"] = []
    model.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", *shape]) for name, shape in outputs.items()
    )
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("", 18))
    checker.check_model(model)
    return bytes(model.SerializeToString())
