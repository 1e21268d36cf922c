"""Rules of arithmetic between tensors, products of matrices, and reductions."""

from __future__ import annotations

import math

import numpy as np
import onnx

from cifake_core.errors import ModelError
from cifake_core.training.onnx_gradients.tape import Gradients, Tape, attributes, rule


@rule("Gemm")
def _gemm(tape: Tape, node: onnx.NodeProto, g: str) -> Gradients:
    given = attributes(node)
    if given.get("transA", 0):
        raise ModelError(f"Gemm ({node.name}) with a transposed first input has no gradient rule")
    found = {0: tape.add("Gemm", g, node.input[1], alpha=given.get("alpha", 1.0), transB=1 - given.get("transB", 0))}
    if len(node.input) > 2 and node.input[2] in tape.live:
        beta = tape.add("Mul", g, tape.constant(given.get("beta", 1.0)))
        found[2] = tape.unbroadcast(beta, node.input[2], node.output[0])
    return found


@rule("MatMul")
def _matmul(tape: Tape, node: onnx.NodeProto, g: str) -> Gradients:
    def transposed(name: str) -> str:
        rank = len(tape.shape(name))
        return tape.add("Transpose", name, perm=[*range(rank - 2), rank - 1, rank - 2])

    a, b = node.input
    if min(len(tape.shape(a)), len(tape.shape(b))) < 2:
        raise ModelError(f"MatMul ({node.name}) of a vector has no gradient rule")
    found = {}
    if a in tape.live:
        found[0] = tape.unbroadcast(tape.add("MatMul", g, transposed(b)), a, node.output[0])
    if b in tape.live:
        found[1] = tape.unbroadcast(tape.add("MatMul", transposed(a), g), b, node.output[0])
    return found


@rule("Add", "Sum", "Sub")
def _add(tape: Tape, node: onnx.NodeProto, g: str) -> Gradients:
    found = {i: tape.unbroadcast(g, name, node.output[0]) for i, name in enumerate(node.input) if name in tape.live}
    if node.op_type == "Sub" and 1 in found:
        found[1] = tape.add("Neg", found[1])
    return found


@rule("Mul")
def _mul(tape: Tape, node: onnx.NodeProto, g: str) -> Gradients:
    return {
        i: tape.unbroadcast(tape.add("Mul", g, node.input[1 - i]), name, node.output[0])
        for i, name in enumerate(node.input)
        if name in tape.live
    }


@rule("Div")
def _div(tape: Tape, node: onnx.NodeProto, g: str) -> Gradients:
    a, b = node.input
    share = tape.add("Div", g, b)
    found = {0: tape.unbroadcast(share, a, node.output[0])} if a in tape.live else {}
    if b in tape.live:
        found[1] = tape.unbroadcast(tape.add("Neg", tape.add("Mul", share, node.output[0])), b, node.output[0])
    return found


@rule("Pow")
def _pow(tape: Tape, node: onnx.NodeProto, g: str) -> Gradients:
    exponent = tape.value(node.input[1])
    lower = tape.add("Pow", node.input[0], tape.constant(exponent - 1))
    slope = tape.add("Mul", lower, tape.constant(exponent))
    return {0: tape.unbroadcast(tape.add("Mul", g, slope), node.input[0], node.output[0])}


@rule("Max", "Min")
def _max(tape: Tape, node: onnx.NodeProto, g: str) -> Gradients:
    if len(node.input) != 2:
        raise ModelError(f"{node.op_type} ({node.name}) of {len(node.input)} inputs has no gradient rule")
    wins = "GreaterOrEqual" if node.op_type == "Max" else "LessOrEqual"
    first = tape.add("Cast", tape.add(wins, *node.input), to=onnx.TensorProto.FLOAT)
    masks = (first, tape.add("Sub", tape.constant(1), first))
    return {
        i: tape.unbroadcast(tape.add("Mul", g, masks[i]), name, node.output[0])
        for i, name in enumerate(node.input)
        if name in tape.live
    }


@rule("ReduceMean", "ReduceSum")
def _reduce(tape: Tape, node: onnx.NodeProto, g: str) -> Gradients:
    g = _keep_reduced(tape, node, g)
    if node.op_type == "ReduceMean":
        sizes = [tape.shape(node.input[0])[axis] for axis in tape.axes(node)]
        if None in sizes:
            raise ModelError(f"ReduceMean ({node.name}) runs over the batch; images must not depend on each other")
        g = tape.add("Div", g, tape.constant(math.prod(size for size in sizes if size is not None)))
    return {0: tape.add("Expand", g, tape.add("Shape", node.input[0]))}


@rule("ReduceMax", "GlobalMaxPool")
def _reduce_max(tape: Tape, node: onnx.NodeProto, g: str) -> Gradients:
    rank = len(tape.shape(node.input[0]))
    axes = list(range(2, rank)) if node.op_type == "GlobalMaxPool" else tape.axes(node)
    top = node.output[0] if node.op_type == "GlobalMaxPool" else _keep_reduced(tape, node, node.output[0])
    g = g if node.op_type == "GlobalMaxPool" else _keep_reduced(tape, node, g)
    winners = tape.add("Cast", tape.add("Equal", node.input[0], top), to=onnx.TensorProto.FLOAT)
    count = tape.add("ReduceSum", winners, tape.constant(axes, np.int64), keepdims=1)
    return {0: tape.add("Mul", winners, tape.add("Div", g, count))}


def _keep_reduced(tape: Tape, node: onnx.NodeProto, name: str) -> str:
    """A reduction's output with its reduced axes kept as 1."""
    if attributes(node).get("keepdims", 1):
        return name
    return tape.add("Unsqueeze", name, tape.constant(tape.axes(node), np.int64))


@rule("Softmax")
def _softmax(tape: Tape, node: onnx.NodeProto, g: str) -> Gradients:
    y, axis = node.output[0], tape.constant([attributes(node).get("axis", -1)], np.int64)
    mean = tape.add("ReduceSum", tape.add("Mul", g, y), axis, keepdims=1)
    return {0: tape.add("Mul", y, tape.add("Sub", g, mean))}
