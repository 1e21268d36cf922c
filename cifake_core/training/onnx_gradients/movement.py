"""Rules of what moves elements and leaves their values: transposing, joining, padding, cutting, choosing."""

from __future__ import annotations

import numpy as np
import onnx

from cifake_core.errors import ModelError
from cifake_core.training.onnx_gradients.tape import Gradients, Tape, attributes, rule


@rule("Transpose")
def _transpose(tape: Tape, node: onnx.NodeProto, g: str) -> Gradients:
    return {0: tape.add("Transpose", g, perm=[int(i) for i in np.argsort(tape.permutation(node))])}


@rule("Concat")
def _concat(tape: Tape, node: onnx.NodeProto, g: str) -> Gradients:
    rank = len(tape.shape(node.output[0]))
    axis = attributes(node)["axis"] % rank
    found, start = {}, 0
    for position, name in enumerate(node.input):
        size = tape.shape(name)[axis]
        if size is None:
            raise ModelError(f"Concat ({node.name}) runs along an axis that is not static")
        ends = [tape.constant([value], np.int64) for value in (start, start + size, axis)]
        if name in tape.live:
            found[position] = tape.add("Slice", g, *ends)
        start += size
    return found


@rule("Pad")
def _pad(tape: Tape, node: onnx.NodeProto, g: str) -> Gradients:
    if attributes(node).get("mode", b"constant") != b"constant" or (len(node.input) > 3 and node.input[3]):
        raise ModelError(f"Pad ({node.name}): only constant padding of all axes has a gradient rule")
    pads = tape.value(node.input[1])
    rank = len(pads) // 2
    begin, end = pads[:rank], pads[rank:]
    stops = np.where(end > 0, -end, np.iinfo(np.int64).max)
    return {0: tape.add("Slice", g, *(tape.constant(v, np.int64) for v in (begin, stops, range(rank))))}


@rule("Slice")
def _slice(tape: Tape, node: onnx.NodeProto, g: str) -> Gradients:
    shape = tape.shape(node.input[0])
    starts, ends = (tape.value(name) for name in node.input[1:3])
    axes = tape.value(node.input[3]) if len(node.input) > 3 and node.input[3] else np.arange(len(starts))
    if len(node.input) > 4 and node.input[4] and (tape.value(node.input[4]) != 1).any():
        raise ModelError(f"Slice ({node.name}) with steps has no gradient rule")
    pads = np.zeros((2, len(shape)), np.int64)
    for start, end, axis in zip(starts, ends, axes % len(shape), strict=True):
        if (size := shape[axis]) is None:
            if start == 0 and end >= np.iinfo(np.int32).max:
                continue  # all of it
            raise ModelError(f"Slice ({node.name}) runs along an axis that is not static")
        first, last, _ = slice(int(start), int(end)).indices(size)
        pads[:, axis] = first, size - last
    return {0: tape.add("Pad", g, tape.constant(pads.ravel(), np.int64))}


@rule("Where")
def _where(tape: Tape, node: onnx.NodeProto, g: str) -> Gradients:
    zero, condition = tape.constant(0), node.input[0]
    parts = {1: (condition, g, zero), 2: (condition, zero, g)}
    return {
        i: tape.unbroadcast(tape.add("Where", *inputs), node.input[i], node.output[0])
        for i, inputs in parts.items()
        if node.input[i] in tape.live
    }
