"""Reverse-mode differentiation of an ONNX graph: gradients of one scalar per image, appended as nodes.

TensorFlow's gradient operations do not convert to ONNX, so the backward pass is written here, as one
vector-Jacobian rule per operator, in ONNX's own operators. Rules follow TensorFlow where derivatives are a
convention: ReLU passes nothing at 0, max-pooling sends a tie to its first element, reduce-max shares it.
"""

from cifake_core.training.onnx_gradients import algebra, elementwise, movement, windows  # they register their rules
from cifake_core.training.onnx_gradients.tape import append_gradients

__all__ = ["algebra", "append_gradients", "elementwise", "movement", "windows"]
