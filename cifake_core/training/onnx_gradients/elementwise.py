"""Rules of functions of one tensor, element by element."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import onnx

from cifake_core.training.onnx_gradients.tape import RULES, Gradients, Rule, Tape, attributes, rule


@rule("Clip")
def _clip(tape: Tape, node: onnx.NodeProto, g: str) -> Gradients:
    for operator, bound in zip(("Greater", "Less"), node.input[1:], strict=False):
        if bound:
            inside = tape.add("Cast", tape.add(operator, node.input[0], bound), to=onnx.TensorProto.FLOAT)
            g = tape.add("Mul", g, inside)
    return {0: g}


def _elementwise(slope: Callable[[Tape, str, str, dict[str, Any]], str]) -> Rule:
    """A rule for y = f(x) element by element, from its slope as a tensor."""

    def apply(tape: Tape, node: onnx.NodeProto, g: str) -> Gradients:
        return {0: tape.add("Mul", g, slope(tape, node.input[0], node.output[0], attributes(node)))}

    return apply


def _positive(tape: Tape, name: str) -> str:
    return tape.add("Cast", tape.add("Greater", name, tape.constant(0)), to=onnx.TensorProto.FLOAT)


def _below_zero(tape: Tape, name: str, negative: str) -> str:
    return tape.add("Where", tape.add("Greater", name, tape.constant(0)), tape.constant(1), negative)


def _hard_sigmoid_slope(tape: Tape, y: str, alpha: float) -> str:
    inside = tape.add("And", tape.add("Greater", y, tape.constant(0)), tape.add("Less", y, tape.constant(1)))
    return tape.add("Where", inside, tape.constant(alpha), tape.constant(0))


def _hard_swish_slope(tape: Tape, x: str) -> str:
    gate = tape.add("HardSigmoid", x, alpha=1 / 6, beta=0.5)
    return tape.add("Add", gate, tape.add("Mul", x, _hard_sigmoid_slope(tape, gate, 1 / 6)))


def _times(tape: Tape, name: str, factor: float) -> str:
    return tape.add("Mul", name, tape.constant(factor))


def _one_minus(tape: Tape, name: str) -> str:
    return tape.add("Sub", tape.constant(1), name)


def _square(tape: Tape, name: str) -> str:
    return tape.add("Mul", name, name)


RULES |= {
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
