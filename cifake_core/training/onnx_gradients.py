"""Reverse-mode differentiation of an ONNX graph: gradients of one scalar per image, appended as nodes.

TensorFlow's gradient operations do not convert to ONNX, so the backward pass is written here, as one
vector-Jacobian rule per operator, in ONNX's own operators. Rules follow TensorFlow where derivatives are a
convention: ReLU passes nothing at 0, max-pooling sends a tie to its first element, reduce-max shares it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper, shape_inference

from cifake_core.errors import ModelError

Gradients = dict[int, str]  # position of an input → name of its gradient
Rule = Callable[["_Tape", onnx.NodeProto, str], Gradients]

_RULES: dict[str, Rule] = {}
# Outputs that carry no gradient: shapes, comparisons, constants.
_CONSTANT = {
    *("Shape", "Size", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal", "Not", "And", "Or"),
    *("Sign", "Floor", "Ceil", "Round", "ConstantOfShape", "Range", "ArgMax", "ArgMin", "IsNaN", "NonZero"),
}


def append_gradients(model: onnx.ModelProto, scalar: str, tensors: Iterable[str]) -> tuple[onnx.ModelProto, list[str]]:
    """Append to a graph the gradients of one of its tensors with respect to others.

    Args:
        model: a graph of ONNX operators, opset 18 or later, float32, shapes static but for the batch.
        scalar: tensor (N,) or (N, 1), one value per image, each depending on its own image only.
        tensors: tensors on the way to `scalar`.

    Returns:
        The extended graph (its outputs unchanged) and, per tensor, the name of its gradient, of the tensor's shape.

    Raises:
        ModelError: no rule for an operator on the way, or `scalar` does not depend on a tensor; both are named.
    """
    tape = _Tape(model)
    return tape.model, tape.gradients(scalar, list(tensors))


def rule(*operators: str) -> Callable[[Rule], Rule]:
    """Register a vector-Jacobian rule: (tape, node, gradient of its output) → gradients of its inputs."""

    def register(function: Rule) -> Rule:
        _RULES.update(dict.fromkeys(operators, function))
        return function

    return register


class _Tape:
    """The graph being extended: constants and shapes by name, and how to add a node."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = shape_inference.infer_shapes(model, data_prop=True)
        self.graph = self.model.graph
        self.constants = {tensor.name: tensor for tensor in self.graph.initializer}
        for node in self.graph.node:
            if node.op_type == "Constant":
                self.constants[node.output[0]] = node.attribute[0].t
        self.shapes: dict[str, tuple[int | None, ...]] = {}
        for info in (*self.graph.value_info, *self.graph.input, *self.graph.output):
            kind = info.type.tensor_type
            if kind.HasField("shape"):
                self.shapes[info.name] = tuple(d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim)
        for name, tensor in self.constants.items():
            self.shapes[name] = tuple(tensor.dims)
        self.number = 0
        self.live: set[str] = set()

    def gradients(self, scalar: str, tensors: list[str]) -> list[str]:
        nodes = list(self.graph.node)  # ONNX graphs are sorted
        makers = {name: node for node in nodes for name in node.output}
        roots = [self._root(name, makers) for name in tensors]
        self.live = {root for root, _ in roots}
        for node in nodes:
            if node.op_type not in _CONSTANT and self.live.intersection(node.input):
                self.live.add(node.output[0])
        for name, (root, _) in zip(tensors, roots, strict=True):
            if scalar not in self.live or root not in self._before(scalar, makers):
                raise ModelError(f"{scalar!r} does not depend on {name!r}; it cannot be explained")
        pending: dict[str, list[str]] = {scalar: [self._ones_like(scalar)]}
        total: dict[str, str] = {}
        for node in reversed(nodes):
            out = node.output[0]
            if out not in pending or out not in self.live:
                continue
            total[out] = self._sum(pending.pop(out))
            if not self.live.intersection(node.input):
                continue
            if node.op_type not in _RULES:
                raise ModelError(f"operator {node.op_type} ({node.name or out}) has no gradient rule")
            found = _RULES[node.op_type](self, node, total[out])
            for position, name in enumerate(node.input):
                if name not in self.live:
                    continue
                if position not in found:
                    raise ModelError(f"operator {node.op_type} ({node.name or out}) has no rule for input {position}")
                pending.setdefault(name, []).append(found[position])
        total |= {name: self._sum(parts) for name, parts in pending.items()}
        results = []
        for root, transposes in roots:
            gradient = total[root]
            for permutation in reversed(transposes):
                gradient = self.add("Transpose", gradient, perm=permutation)
            results.append(gradient)
        return results

    def _root(self, name: str, makers: dict[str, onnx.NodeProto]) -> tuple[str, list[list[int]]]:
        """The tensor that this one is only a transposed copy of, and the permutations between them."""
        transposes = []
        while name in makers and makers[name].op_type in ("Transpose", "Identity"):
            node = makers[name]
            if node.op_type == "Transpose":
                transposes.append(self.permutation(node))
            name = node.input[0]
        return name, transposes

    @staticmethod
    def _before(name: str, makers: dict[str, onnx.NodeProto]) -> set[str]:
        seen, todo = set(), [name]
        while todo:
            if (current := todo.pop()) not in seen:
                seen.add(current)
                if current in makers and makers[current].op_type not in _CONSTANT:
                    todo.extend(makers[current].input)
        return seen

    def _ones_like(self, name: str) -> str:
        one = numpy_helper.from_array(np.ones(1, np.float32))
        return self.add("ConstantOfShape", self.add("Shape", name), value=one)

    def _sum(self, parts: list[str]) -> str:
        return parts[0] if len(parts) == 1 else self.add("Sum", *parts)

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Append a node with one output; its output's name."""
        self.number += 1
        output = f"gradient/{operator}_{self.number}"
        self.graph.node.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    def constant(self, value: Any, kind: Any = np.float32) -> str:
        """An initializer; its name."""
        self.number += 1
        name = f"gradient/constant_{self.number}"
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(value, kind), name))
        return name

    def value(self, name: str) -> np.ndarray:
        """A constant's value."""
        if name not in self.constants:
            raise ModelError(f"{name!r} must be a constant for its operator to be differentiated")
        return numpy_helper.to_array(self.constants[name])

    def shape(self, name: str) -> tuple[int | None, ...]:
        """A tensor's shape; None where it is not static."""
        if name not in self.shapes:
            raise ModelError(f"the shape of {name!r} is not known; it must be for its operator to be differentiated")
        return self.shapes[name]

    def spatial(self, name: str) -> tuple[int, ...]:
        """The height and width (any number of spatial axes) of (N, C, …); all must be static."""
        shape = self.shape(name)[2:]
        if None in shape:
            raise ModelError(f"{name!r} has no static size {shape}; it must have for its operator to be differentiated")
        return tuple(size for size in shape if size is not None)

    def permutation(self, node: onnx.NodeProto) -> list[int]:
        default = list(reversed(range(len(self.shape(node.input[0])))))
        return list(attributes(node).get("perm", default))

    def axes(self, node: onnx.NodeProto) -> list[int]:
        """The axes of a reduction, an attribute or the second input, none meaning all; not negative."""
        rank = len(self.shape(node.input[0]))
        given = attributes(node).get("axes")
        if given is None:
            given = self.value(node.input[1]) if len(node.input) > 1 and node.input[1] else range(rank)
        return [int(axis) % rank for axis in given]

    def like(self, gradient: str, name: str) -> str:
        """Reshape a gradient to a tensor's shape."""
        return self.add("Reshape", gradient, self.add("Shape", name))

    def unbroadcast(self, gradient: str, name: str, output: str) -> str:
        """Sum a gradient of the output's shape over the axes along which an input was broadcast."""
        small, large = self.shape(name), self.shape(output)
        missing = len(large) - len(small)
        axes = [i for i in range(len(large)) if i < missing or (small[i - missing] == 1 and large[i] != 1)]
        if not axes:
            return gradient
        gradient = self.add("ReduceSum", gradient, self.constant(axes, np.int64), keepdims=1)
        return self.like(gradient, name) if missing else gradient


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """A node's attributes as Python values."""
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def _window(tape: _Tape, node: onnx.NodeProto, kernel: tuple[int, ...]) -> dict[str, list[int]]:
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


def _scatter_windows(tape: _Tape, node: onnx.NodeProto, gradient: str, weights: str, kernel: Any, group: int) -> str:
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
def _conv(tape: _Tape, node: onnx.NodeProto, g: str) -> Gradients:
    kernel = tape.value(node.input[1]).shape[2:]
    return {0: _scatter_windows(tape, node, g, node.input[1], kernel, attributes(node).get("group", 1))}


@rule("AveragePool")
def _average_pool(tape: _Tape, node: onnx.NodeProto, g: str) -> Gradients:
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
def _max_pool(tape: _Tape, node: onnx.NodeProto, g: str) -> Gradients:
    if len(node.output) == 1:  # ask the pooling itself which element won
        node.output.append(f"{node.output[0]}/winners")
    shape, everything = tape.add("Shape", node.input[0]), tape.constant([-1], np.int64)
    zeros = tape.add("ConstantOfShape", tape.add("ReduceProd", shape, keepdims=1))
    winners, parts = (tape.add("Reshape", name, everything) for name in (node.output[1], g))
    flat = tape.add("ScatterElements", zeros, winners, parts, axis=0, reduction="add")
    return {0: tape.add("Reshape", flat, shape)}


@rule("GlobalAveragePool")
def _global_average_pool(tape: _Tape, node: onnx.NodeProto, g: str) -> Gradients:
    count = tape.constant(math.prod(tape.spatial(node.input[0])))
    return {0: tape.add("Expand", tape.add("Div", g, count), tape.add("Shape", node.input[0]))}


@rule("ReduceMean", "ReduceSum")
def _reduce(tape: _Tape, node: onnx.NodeProto, g: str) -> Gradients:
    g = _keep_reduced(tape, node, g)
    if node.op_type == "ReduceMean":
        sizes = [tape.shape(node.input[0])[axis] for axis in tape.axes(node)]
        if None in sizes:
            raise ModelError(f"ReduceMean ({node.name}) runs over the batch; images must not depend on each other")
        g = tape.add("Div", g, tape.constant(math.prod(size for size in sizes if size is not None)))
    return {0: tape.add("Expand", g, tape.add("Shape", node.input[0]))}


@rule("ReduceMax", "GlobalMaxPool")
def _reduce_max(tape: _Tape, node: onnx.NodeProto, g: str) -> Gradients:
    rank = len(tape.shape(node.input[0]))
    axes = list(range(2, rank)) if node.op_type == "GlobalMaxPool" else tape.axes(node)
    top = node.output[0] if node.op_type == "GlobalMaxPool" else _keep_reduced(tape, node, node.output[0])
    g = g if node.op_type == "GlobalMaxPool" else _keep_reduced(tape, node, g)
    winners = tape.add("Cast", tape.add("Equal", node.input[0], top), to=onnx.TensorProto.FLOAT)
    count = tape.add("ReduceSum", winners, tape.constant(axes, np.int64), keepdims=1)
    return {0: tape.add("Mul", winners, tape.add("Div", g, count))}


def _keep_reduced(tape: _Tape, node: onnx.NodeProto, name: str) -> str:
    """A reduction's output with its reduced axes kept as 1."""
    if attributes(node).get("keepdims", 1):
        return name
    return tape.add("Unsqueeze", name, tape.constant(tape.axes(node), np.int64))


@rule("BatchNormalization")
def _batch_normalization(tape: _Tape, node: onnx.NodeProto, g: str) -> Gradients:
    scale, variance = tape.value(node.input[1]), tape.value(node.input[4])
    factor = scale / np.sqrt(variance + attributes(node).get("epsilon", 1e-5))
    rank = len(tape.shape(node.input[0]))
    return {0: tape.add("Mul", g, tape.constant(factor.reshape([1, -1] + [1] * (rank - 2))))}


@rule("Gemm")
def _gemm(tape: _Tape, node: onnx.NodeProto, g: str) -> Gradients:
    given = attributes(node)
    if given.get("transA", 0):
        raise ModelError(f"Gemm ({node.name}) with a transposed first input has no gradient rule")
    found = {0: tape.add("Gemm", g, node.input[1], alpha=given.get("alpha", 1.0), transB=1 - given.get("transB", 0))}
    if len(node.input) > 2 and node.input[2] in tape.live:
        beta = tape.add("Mul", g, tape.constant(given.get("beta", 1.0)))
        found[2] = tape.unbroadcast(beta, node.input[2], node.output[0])
    return found


@rule("MatMul")
def _matmul(tape: _Tape, node: onnx.NodeProto, g: str) -> Gradients:
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
def _add(tape: _Tape, node: onnx.NodeProto, g: str) -> Gradients:
    found = {i: tape.unbroadcast(g, name, node.output[0]) for i, name in enumerate(node.input) if name in tape.live}
    if node.op_type == "Sub" and 1 in found:
        found[1] = tape.add("Neg", found[1])
    return found


@rule("Mul")
def _mul(tape: _Tape, node: onnx.NodeProto, g: str) -> Gradients:
    return {
        i: tape.unbroadcast(tape.add("Mul", g, node.input[1 - i]), name, node.output[0])
        for i, name in enumerate(node.input)
        if name in tape.live
    }


@rule("Div")
def _div(tape: _Tape, node: onnx.NodeProto, g: str) -> Gradients:
    a, b = node.input
    share = tape.add("Div", g, b)
    found = {0: tape.unbroadcast(share, a, node.output[0])} if a in tape.live else {}
    if b in tape.live:
        found[1] = tape.unbroadcast(tape.add("Neg", tape.add("Mul", share, node.output[0])), b, node.output[0])
    return found


@rule("Pow")
def _pow(tape: _Tape, node: onnx.NodeProto, g: str) -> Gradients:
    exponent = tape.value(node.input[1])
    lower = tape.add("Pow", node.input[0], tape.constant(exponent - 1))
    slope = tape.add("Mul", lower, tape.constant(exponent))
    return {0: tape.unbroadcast(tape.add("Mul", g, slope), node.input[0], node.output[0])}


@rule("Max", "Min")
def _max(tape: _Tape, node: onnx.NodeProto, g: str) -> Gradients:
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


@rule("Where")
def _where(tape: _Tape, node: onnx.NodeProto, g: str) -> Gradients:
    zero, condition = tape.constant(0), node.input[0]
    parts = {1: (condition, g, zero), 2: (condition, zero, g)}
    return {
        i: tape.unbroadcast(tape.add("Where", *inputs), node.input[i], node.output[0])
        for i, inputs in parts.items()
        if node.input[i] in tape.live
    }


@rule("Clip")
def _clip(tape: _Tape, node: onnx.NodeProto, g: str) -> Gradients:
    for operator, bound in zip(("Greater", "Less"), node.input[1:], strict=False):
        if bound:
            inside = tape.add("Cast", tape.add(operator, node.input[0], bound), to=onnx.TensorProto.FLOAT)
            g = tape.add("Mul", g, inside)
    return {0: g}


def _elementwise(slope: Callable[[_Tape, str, str, dict[str, Any]], str]) -> Rule:
    """A rule for y = f(x) element by element, from its slope as a tensor."""

    def apply(tape: _Tape, node: onnx.NodeProto, g: str) -> Gradients:
        return {0: tape.add("Mul", g, slope(tape, node.input[0], node.output[0], attributes(node)))}

    return apply


def _positive(tape: _Tape, name: str) -> str:
    return tape.add("Cast", tape.add("Greater", name, tape.constant(0)), to=onnx.TensorProto.FLOAT)


def _below_zero(tape: _Tape, name: str, negative: str) -> str:
    return tape.add("Where", tape.add("Greater", name, tape.constant(0)), tape.constant(1), negative)


def _hard_sigmoid_slope(tape: _Tape, y: str, alpha: float) -> str:
    inside = tape.add("And", tape.add("Greater", y, tape.constant(0)), tape.add("Less", y, tape.constant(1)))
    return tape.add("Where", inside, tape.constant(alpha), tape.constant(0))


def _hard_swish_slope(tape: _Tape, x: str) -> str:
    gate = tape.add("HardSigmoid", x, alpha=1 / 6, beta=0.5)
    return tape.add("Add", gate, tape.add("Mul", x, _hard_sigmoid_slope(tape, gate, 1 / 6)))


def _times(tape: _Tape, name: str, factor: float) -> str:
    return tape.add("Mul", name, tape.constant(factor))


def _one_minus(tape: _Tape, name: str) -> str:
    return tape.add("Sub", tape.constant(1), name)


def _square(tape: _Tape, name: str) -> str:
    return tape.add("Mul", name, name)


_RULES |= {
    "Relu": _elementwise(lambda t, x, y, a: _positive(t, y)),
    "LeakyRelu": _elementwise(lambda t, x, y, a: _below_zero(t, x, t.constant(a.get("alpha", 0.01)))),
    "Elu": _elementwise(lambda t, x, y, a: _below_zero(t, x, t.add("Add", y, t.constant(a.get("alpha", 1.0))))),
    "Sigmoid": _elementwise(lambda t, x, y, a: t.add("Mul", y, _one_minus(t, y))),
    "Tanh": _elementwise(lambda t, x, y, a: _one_minus(t, _square(t, y))),
    "Softplus": _elementwise(lambda t, x, y, a: t.add("Sigmoid", x)),
    "HardSigmoid": _elementwise(lambda t, x, y, a: _hard_sigmoid_slope(t, y, a.get("alpha", 0.2))),
    "HardSwish": _elementwise(lambda t, x, y, a: _hard_swish_slope(t, x)),
    "Exp": _elementwise(lambda t, x, y, a: y),
    "Log": _elementwise(lambda t, x, y, a: t.add("Reciprocal", x)),
    "Sqrt": _elementwise(lambda t, x, y, a: _times(t, t.add("Reciprocal", y), 0.5)),
    "Reciprocal": _elementwise(lambda t, x, y, a: t.add("Neg", _square(t, y))),
    "Abs": _elementwise(lambda t, x, y, a: t.add("Sign", x)),
    "Erf": _elementwise(
        lambda t, x, y, a: _times(t, t.add("Exp", t.add("Neg", _square(t, x))), 2 / math.sqrt(math.pi))
    ),
    "Neg": lambda t, node, g: {0: t.add("Neg", g)},
    "Identity": lambda t, node, g: {0: g},
    "Cast": lambda t, node, g: {0: g},
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), lambda t, node, g: {0: t.like(g, node.input[0])}),
}


@rule("Softmax")
def _softmax(tape: _Tape, node: onnx.NodeProto, g: str) -> Gradients:
    y, axis = node.output[0], tape.constant([attributes(node).get("axis", -1)], np.int64)
    mean = tape.add("ReduceSum", tape.add("Mul", g, y), axis, keepdims=1)
    return {0: tape.add("Mul", y, tape.add("Sub", g, mean))}


@rule("Transpose")
def _transpose(tape: _Tape, node: onnx.NodeProto, g: str) -> Gradients:
    return {0: tape.add("Transpose", g, perm=[int(i) for i in np.argsort(tape.permutation(node))])}


@rule("Concat")
def _concat(tape: _Tape, node: onnx.NodeProto, g: str) -> Gradients:
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
def _pad(tape: _Tape, node: onnx.NodeProto, g: str) -> Gradients:
    if attributes(node).get("mode", b"constant") != b"constant" or (len(node.input) > 3 and node.input[3]):
        raise ModelError(f"Pad ({node.name}): only constant padding of all axes has a gradient rule")
    pads = tape.value(node.input[1])
    rank = len(pads) // 2
    begin, end = pads[:rank], pads[rank:]
    stops = np.where(end > 0, -end, np.iinfo(np.int64).max)
    return {0: tape.add("Slice", g, *(tape.constant(v, np.int64) for v in (begin, stops, range(rank))))}


@rule("Slice")
def _slice(tape: _Tape, node: onnx.NodeProto, g: str) -> Gradients:
    shape = tape.shape(node.input[0])
    starts, ends = (tape.value(name) for name in node.input[1:3])
    axes = tape.value(node.input[3]) if len(node.input) > 3 and node.input[3] else np.arange(len(starts))
    if len(node.input) > 4 and node.input[4] and (tape.value(node.input[4]) != 1).any():
        raise ModelError(f"Slice ({node.name}) with steps has no gradient rule")
    pads = np.zeros((2, len(shape)), np.int64)
    for start, end, axis in zip(starts, ends, axes % len(shape), strict=True):
        if (size := shape[axis]) is None:
            raise ModelError(f"Slice ({node.name}) runs along an axis that is not static")
        first, last, _ = slice(int(start), int(end)).indices(size)
        pads[:, axis] = first, size - last
    return {0: tape.add("Pad", g, tape.constant(pads.ravel(), np.int64))}
