"""The exponential moving average of a network's variables over its training steps (EMA).

Keras' optimisers have one, but it leaves out batch statistics and overwrites the weights whenever `fit` returns.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf


class Average(keras.callbacks.Callback):
    """Follows a model while it is fitted; validation measures the average.

    Args:
        momentum: weight of the average against the newest values, in 0..1; smaller in the first steps.
    """

    def __init__(self, model: keras.Model, momentum: float) -> None:
        super().__init__()
        self.followed = [v for v in model.variables if keras.backend.is_float_dtype(v.dtype)]
        self.averages = [
            keras.Variable(v.numpy(), trainable=False, name=f"average_{i}") for i, v in enumerate(self.followed)
        ]
        self.steps = keras.Variable(0.0, trainable=False, name="average_steps")
        self.momentum = momentum
        self.update = tf.function(self._update)

    @property
    def variables(self) -> list[keras.Variable]:
        """What a checkpoint must keep."""
        return [self.steps, *self.averages]

    def _update(self) -> None:
        self.steps.assign_add(1.0)
        momentum = tf.minimum(self.momentum, (1 + self.steps.value) / (10 + self.steps.value))
        for average, variable in zip(self.averages, self.followed, strict=True):
            average.assign(average.value + (1 - momentum) * (variable.value - average.value))

    def swap(self) -> None:
        """Exchange the model's variables and the averages; the second call undoes the first."""
        for average, variable in zip(self.averages, self.followed, strict=True):
            kept = variable.numpy()
            variable.assign(average.value)
            average.assign(kept)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Take the step into the average."""
        self.update()

    def on_test_begin(self, logs: Any = None) -> None:
        """Measure the average."""
        self.swap()

    def on_test_end(self, logs: Any = None) -> None:
        """Train on."""
        self.swap()
