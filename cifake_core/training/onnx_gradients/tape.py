"""The graph being differentiated, the walk back through it, and the table that rules enter themselves in."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper, shape_inference

from cifake_core.errors import ModelError

Gradients = dict[int, str]  # position of an input → name of its gradient
Rule = Callable[["Tape", onnx.NodeProto, str], Gradients]

RULES: dict[str, Rule] = {}
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
    tape = Tape(model)
    return tape.model, tape.gradients(scalar, list(tensors))


def rule(*operators: str) -> Callable[[Rule], Rule]:
    """Register a vector-Jacobian rule: (tape, node, gradient of its output) → gradients of its inputs."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(operators, function))
        return function

    return register


class Tape:
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
        """Append the gradients of `scalar` with respect to `tensors`; their names."""
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
            if node.op_type not in RULES:
                raise ModelError(f"operator {node.op_type} ({node.name or out}) has no gradient rule")
            found = RULES[node.op_type](self, node, total[out])
            for position, name in enumerate(node.input):
                if name not in self.live:
                    continue
                if position not in found:
                    raise ModelError(f"operator {node.op_type} ({node.name or out}) has no rule for input {position}")
                pending.setdefault(name, []).append(found[position])
        total |= {name: self._sum(parts) for name, parts in pending.items()}
        results = []
        for root, moves in roots:
            gradient = total[root]
            for node in reversed(moves):
                if node.op_type == "Transpose":
                    gradient = self.add("Transpose", gradient, perm=self.permutation(node))
                elif node.op_type == "Reshape":
                    gradient = self.like(gradient, node.output[0])
            results.append(gradient)
        return results

    @staticmethod
    def _root(name: str, makers: dict[str, onnx.NodeProto]) -> tuple[str, list[onnx.NodeProto]]:
        """The tensor that this one is only a rearranged copy of, and the nodes between them."""
        moves = []
        while name in makers and makers[name].op_type in ("Transpose", "Identity", "Reshape"):
            moves.append(makers[name])
            name = makers[name].input[0]
        return name, moves

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
        """What a Transpose does to the axes; without being told, it reverses them."""
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
