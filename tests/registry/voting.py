"""Models whose every answer a test chooses: each reads one corner of an image, and the images carry the answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from cifake_core.bundle import Block, BundleInfo, sha256
from cifake_core.images import codec, dataset, records
from cifake_core.images.dataset import Manifest
from cifake_core.settings import CLASSES
from cifake_core.storage import Store

SIZE, HALF = 32, 16
CORNERS = ((0, 0), (0, 1), (1, 0))  # which quarter a model reads; the fourth is grey, to compare with
STEP = 32  # a bright quarter is this far above grey, a dark one below


def write_images(store: Store, rows: int, right: list[Callable[[int, int, str], bool]], seed: int = 0) -> Manifest:
    """A dataset version of `rows` test images (and a few train ones) that carry the answers of up to three models.

    Args:
        right: per model, `right(index, label, class)`: does it answer this test image rightly?
    """
    rng = np.random.default_rng(seed)
    tables = {}
    for split, count in (("train", 40), ("test", rows)):
        made = []
        for index in range(count):
            label, kind = index % 2, CLASSES[(index // 2) % len(CLASSES)]
            pixels = np.full((SIZE, SIZE, 3), 128.0)
            for (top, left), is_right in zip(CORNERS, right, strict=False):
                vote = label if is_right(index, label, kind) else 1 - label
                pixels[top * HALF : (top + 1) * HALF, left * HALF : (left + 1) * HALF] += STEP if vote else -STEP
            pixels += rng.normal(0, 4, pixels.shape)  # no two images are alike
            jpeg = codec.encode(np.clip(pixels, 0, 255).astype(np.uint8))
            row = {"image": {"bytes": jpeg, "path": f"{split}-{index}.jpg"}, "label": label, "class": kind}
            made.append({**row, "source": "votes", "generator": None if label else "votes"})
        tables[split] = records.make_table(made)
    return dataset.write(store, tables, {"seed": seed})


def calibrated_gain(right: Callable[[int, int, str], bool], rows: int) -> float:
    """The gain at which a model's P(REAL) says how often it is right."""
    hits = sum(right(i, i % 2, CLASSES[(i // 2) % len(CLASSES)]) for i in range(rows)) / rows
    hits = min(max(hits, 0.52), 0.99)
    return float(np.log(hits / (1 - hits)) / (STEP / 255))


def write_bundle(
    folder: Path, model: int, dataset_version: str, gain: float = 28, changed: str = "", parity_rows: int = 8
) -> Path:
    """A bundle that reads corner `model`.

    `changed` makes `explain` disagree with `score`, or both with `parity`, or the gradients speak for other corners.
    """
    folder.mkdir(parents=True)
    weights = np.zeros((3, 2, 2), np.float32)
    top, left = CORNERS[model]
    weights[:, top, left], weights[:, 1, 1] = gain / 3, -gain / 3
    (folder / "score.onnx").write_bytes(_graph(weights))
    told = weights[:, ::-1, ::-1].copy() if changed == "gradients" else weights
    (folder / "explain.onnx").write_bytes(_graph(weights * (2 if changed == "explain" else 1), told))
    images = np.random.default_rng(1).integers(0, 256, (parity_rows, SIZE, SIZE, 3), np.uint8)
    means = images.reshape(parity_rows, 2, HALF, 2, HALF, 3).mean((2, 4)).transpose(0, 3, 1, 2) / 255
    logits = (means * weights).sum((1, 2, 3)) + (1 if changed == "parity" else 0)
    np.savez(folder / "parity.npz", images=images, probability_real=(1 / (1 + np.exp(-logits))).astype(np.float32))
    info = BundleInfo(
        topology="votes",
        parameters=12,
        dataset_version=dataset_version,
        seed=model,
        blocks=[Block(name="block1", height=2, width=2, channels=3)],
        sha256={name: sha256(folder / name) for name in ("score.onnx", "explain.onnx", "parity.npz")},
    )
    (folder / "detector.json").write_text(info.model_dump_json())
    return folder


def _graph(weights: np.ndarray, gradients: np.ndarray | None = None) -> bytes:
    """The score graph, or with gradients the explanation graph."""
    from onnx import TensorProto, checker, helper, numpy_helper

    node, info = helper.make_node, helper.make_tensor_value_info
    nodes = [
        node("Cast", ["images"], ["cast"], to=TensorProto.FLOAT),
        node("Div", ["cast", "white"], ["scaled"]),
        node("Transpose", ["scaled"], ["x"], perm=[0, 3, 1, 2]),
        node("AveragePool", ["x"], ["a"], kernel_shape=[HALF, HALF], strides=[HALF, HALF]),
        node("Mul", ["a", "weights"], ["product"]),
        node("ReduceSum", ["product", "axes"], ["logit"], keepdims=0),
    ]
    outputs = [info("logit", TensorProto.FLOAT, ["n"])]
    constants = {"white": np.float32(255), "axes": np.array([1, 2, 3]), "weights": weights}
    if gradients is not None:
        constants |= {"zero": np.float32(0), "gradients": gradients}
        nodes += [
            node("Transpose", ["a"], ["activations_block1"], perm=[0, 2, 3, 1]),
            node("Mul", ["a", "zero"], ["zeros"]),
            node("Add", ["zeros", "gradients"], ["g"]),
            node("Transpose", ["g"], ["gradients_block1"], perm=[0, 2, 3, 1]),
        ]
        outputs += [info(f"{kind}_block1", TensorProto.FLOAT, ["n", 2, 2, 3]) for kind in ("activations", "gradients")]
    else:
        nodes.append(node("Sigmoid", ["logit"], ["probability_real"]))
        outputs.append(info("probability_real", TensorProto.FLOAT, ["n"]))
    initialisers = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    images = info("images", TensorProto.UINT8, ["n", SIZE, SIZE, 3])
    graph = helper.make_graph(nodes, "votes", [images], outputs, initialisers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def say_validated(store: Store, version: str, success: bool = True) -> None:
    """The result that `cifake validate` leaves."""
    result = {"dataset_version": version, "success": success, "failed": [], "report_url": ""}
    store.write(f"validation/{version}/result.json", json.dumps(result).encode())


def share(of: float) -> Callable[[int, int, str], bool]:
    """Right on this share of images, spread evenly over labels and classes."""
    return lambda index, _label, _kind: (index * 0.61803398875) % 1 < of
