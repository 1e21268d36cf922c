"""Rules of what slides over an image: convolution, pooling; and batch normalisation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx

from cifake_core.training.onnx_gradients.tape import Gradients, Tape, attributes, rule


def _window(tape: Tape, node: onnx.NodeProto, kernel: tuple[int, ...]) -> dict[str, list[int]]:
    """Strides, dilations and explicit pads of a convolution or pooling, whatever `auto_pad` says."""
    given, sizes = attributes(node), tape.spatial(node.input[0])
    strides = list(given.get("strides", [1] * len(kernel)))
    dilations = list(given.get("dilations", [1] * len(kernel)))
    pads = list(given.get("pads", [0] * (2 * len(kernel))))
    if (auto := given.get("auto_pad", b"NOTSET")) in (b"SAME_UPPER", b"SAME_LOWER"):
        begin, end = [], []
        for size, k, s, d in zip(sizes, kernel, strides, dilations, strict=True):
            total = max((math.ceil(size / s) - 1) * s + (k - 1) * d + 1 - size, 0)
            begin.append(total // 2 if auto == b"SAME_UPPER" else total - total // 2)
            end.append(total - begin[-1])
        pads = begin + end
    return {"strides": strides, "dilations": dilations, "pads": pads}


def _scatter_windows(tape: Tape, node: onnx.NodeProto, gradient: str, weights: str, kernel: Any, group: int) -> str:
    """The transposed convolution that undoes a window's geometry, sized as the node's input."""
    window = _window(tape, node, kernel)
    sizes, outs, rank = tape.spatial(node.input[0]), tape.spatial(node.output[0]), len(kernel)
    extra = [
        sizes[i]
        - (window["strides"][i] * (outs[i] - 1) + (kernel[i] - 1) * window["dilations"][i] + 1)
        + window["pads"][i]
        + window["pads"][rank + i]
        for i in range(rank)
    ]
    # Rows that no window reached (extra beyond the stride) have gradient 0: padded on afterwards.
    inside = [min(e, s - 1) for e, s in zip(extra, window["strides"], strict=True)]
    out = tape.add("ConvTranspose", gradient, weights, group=group, output_padding=inside, **window)
    if inside == extra:
        return out
    ends = [0, 0, *(e - i for e, i in zip(extra, inside, strict=True))]
    return tape.add("Pad", out, tape.constant([0] * (2 + rank) + ends, np.int64))


@rule("Conv")
def _conv(tape: Tape, node: onnx.NodeProto, g: str) -> Gradients:
    kernel = tape.value(node.input[1]).shape[2:]
    return {0: _scatter_windows(tape, node, g, node.input[1], kernel, attributes(node).get("group", 1))}


@rule("AveragePool")
def _average_pool(tape: Tape, node: onnx.NodeProto, g: str) -> Gradients:
    kernel = tuple(attributes(node)["kernel_shape"])
    window, sizes, outs = _window(tape, node, kernel), tape.spatial(node.input[0]), tape.spatial(node.output[0])
    counts = np.full(outs, math.prod(kernel), np.float32)
    if not attributes(node).get("count_include_pad", 0):
        counts = np.ones(outs, np.float32)
        for axis, (size, out) in enumerate(zip(sizes, outs, strict=True)):
            starts = np.arange(out) * window["strides"][axis] - window["pads"][axis]
            taps = starts[:, None] + np.arange(kernel[axis]) * window["dilations"][axis]
            inside = ((taps >= 0) & (taps < size)).sum(1).astype(np.float32)
            counts *= inside.reshape([-1 if i == axis else 1 for i in range(len(outs))])
    channels = tape.shape(node.input[0])[1]
    share = tape.add("Div", g, tape.constant(counts[None, None]))
    ones = tape.constant(np.ones((channels, 1, *kernel)))
    return {0: _scatter_windows(tape, node, share, ones, kernel, channels or 1)}


@rule("MaxPool")
def _max_pool(tape: Tape, node: onnx.NodeProto, g: str) -> Gradients:
    if len(node.output) == 1:  # ask the pooling itself which element won
        node.output.append(f"{node.output[0]}/winners")
    shape, everything = tape.add("Shape", node.input[0]), tape.constant([-1], np.int64)
    zeros = tape.add("ConstantOfShape", tape.add("ReduceProd", shape, keepdims=1))
    winners, parts = (tape.add("Reshape", name, everything) for name in (node.output[1], g))
    flat = tape.add("ScatterElements", zeros, winners, parts, axis=0, reduction="add")
    return {0: tape.add("Reshape", flat, shape)}


@rule("GlobalAveragePool")
def _global_average_pool(tape: Tape, node: onnx.NodeProto, g: str) -> Gradients:
    count = tape.constant(math.prod(tape.spatial(node.input[0])))
    return {0: tape.add("Expand", tape.add("Div", g, count), tape.add("Shape", node.input[0]))}


@rule("BatchNormalization")
def _batch_normalization(tape: Tape, node: onnx.NodeProto, g: str) -> Gradients:
    scale, variance = tape.value(node.input[1]), tape.value(node.input[4])
    factor = scale / np.sqrt(variance + attributes(node).get("epsilon", 1e-5))
    rank = len(tape.shape(node.input[0]))
    return {0: tape.add("Mul", g, tape.constant(factor.reshape([1, -1] + [1] * (rank - 2))))}
