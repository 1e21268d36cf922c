"""Fit a topology to arrays: seeded, and after every epoch saved so that a killed run continues where it was.

The order of images depends on (seed, epoch) only and every variable is kept, so a continued run ends with the same
weights as an undisturbed one.
"""

from __future__ import annotations

import io
import json
import logging
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cifake_core.errors import ConfigurationError
from cifake_core.storage import Store
from cifake_core.training import topologies
from cifake_core.training.augmentation import Augmentation, augment, mix
from cifake_core.training.epochs import Arrays
from cifake_core.training.options import Options

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

CHECKPOINT = "checkpoint.npz"
EpochDone = Callable[[list[dict[str, float]]], None]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fitted:
    """A trained network and, per epoch, loss, accuracy, precision, recall, f1 (of REAL), `val_…` and seconds."""

    model: keras.Model
    history: list[dict[str, float]]


def fit(
    options: Options,
    train: Arrays,
    validation: Arrays | None = None,
    *,
    starts: Sequence[keras.Model] = (),
    teachers: Sequence[keras.Model] = (),
    folder: Path | None = None,
    on_epoch: EpochDone | None = None,
) -> Fitted:
    """Train a topology.

    Args:
        validation: measured after every epoch, when there is any.
        starts: networks of the same topology whose weights, or their mean, to go on from: what several cycles of one
            training ended in (Izmailov et al. 2018, https://arxiv.org/abs/1803.05407). Without epochs, the result.
        teachers: networks whose mean answer to every changed image is learnt, instead of its label (distillation, with
            one view for both: Beyer et al. 2022, https://arxiv.org/abs/2106.05237). Metrics are of the labels.
        folder: where the checkpoint is kept; a checkpoint found there is continued. None keeps none.
        on_epoch: called with the history so far, once the epoch's checkpoint is safe.

    Raises:
        ConfigurationError: unknown topology, or an image size that does not suit it or the weights to start from.
        StoreError: the checkpoint cannot be written.
    """
    import keras
    import tensorflow as tf

    from cifake_core.training.averaging import Average

    keras.utils.set_random_seed(options.seed)
    tf.config.experimental.enable_op_determinism()
    model = topologies.build(options.topology, options.image_size)
    if starts:
        try:
            model.set_weights([np.mean(each, 0) for each in zip(*(one.get_weights() for one in starts), strict=True)])
        except ValueError as exc:
            raise ConfigurationError(
                f"the weights to start from do not fit {options.topology!r} at {options.image_size} pixels a side"
            ) from exc
    average = Average(model, options.average) if options.average else None
    optimizer = optimizer_of(options, math.ceil(train.count / options.batch_size))
    optimizer.build(model.trainable_variables)
    soft = bool(teachers or options.augmentation.cutmix)
    _compile(model, optimizer, soft=soft, each_step=bool(average))

    state = [*model.variables, *optimizer.variables, *(average.variables if average else [])]
    history = _restore(folder, state)
    batches = feed(train, options.batch_size, options.augmentation, teachers)
    check = feed(validation, 512)(np.arange(len(validation.labels))) if validation else None
    for epoch in range(len(history), options.epochs):
        if _settled(history, options.patience):
            log.info("stopping early: no lower loss in %d epochs", options.patience)
            break
        started = time.perf_counter()
        order = train.order(options.seed, epoch)
        logs = model.fit(
            batches(order, options.seed, epoch),
            initial_epoch=epoch,
            epochs=epoch + 1,
            validation_data=check,
            shuffle=False,
            callbacks=[*([average] if average else []), _bar(f"epoch {epoch + 1}/{options.epochs}")],
            verbose=0,
        ).history
        history.append(_epoch_metrics(logs, time.perf_counter() - started))
        log.info("epoch %d/%d: %s", epoch + 1, options.epochs, _line(history[-1]))
        _save(folder, state, history)
        if on_epoch:
            on_epoch(history)
    if average:
        average.swap()
    if soft:
        _compile(model, optimizer)  # what is saved asks for nothing of ours
    return Fitted(model, history)


def _compile(
    model: keras.Model, optimizer: keras.optimizers.Optimizer, *, soft: bool = False, each_step: bool = False
) -> None:
    """Loss and metrics. With soft targets the loss is to their second column, metrics are of the first, labels."""
    from keras import losses, metrics

    def loss(y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        return losses.binary_crossentropy(y_true[:, -1:], y_pred)

    measured = {"accuracy": metrics.BinaryAccuracy, "precision": metrics.Precision, "recall": metrics.Recall}
    # XLA is two to four times slower on a CPU for networks of this size.
    # The average follows every step; without one, Python is left out of most of them.
    model.compile(
        optimizer,
        loss if soft else losses.BinaryCrossentropy(),
        metrics=[(_of_labels(kind) if soft else kind)(name=name) for name, kind in measured.items()],
        jit_compile=False,
        steps_per_execution=1 if each_step else 16,
    )


def _of_labels(kind: type[keras.metrics.Metric]) -> type[keras.metrics.Metric]:
    """The metric, where targets have a second column that is not labels."""

    class OfLabels(kind):  # type: ignore[misc, valid-type]
        def update_state(self, y_true: tf.Tensor, y_pred: tf.Tensor, sample_weight: Any = None) -> Any:
            return super().update_state(y_true[:, :1], y_pred, sample_weight)

    return OfLabels


def _settled(history: list[dict[str, float]], patience: int) -> bool:
    """Has the loss (of the validation rows, where there are any) found no new low in the last `patience` epochs?"""
    losses = [epoch.get("val_loss", epoch["loss"]) for epoch in history]
    return bool(patience) and len(losses) > patience and min(losses[-patience:]) >= min(losses[:-patience])


def optimizer_of(options: Options, steps: int) -> keras.optimizers.Optimizer:
    """What the options ask for, at a rate scheduled over their epochs of so many steps."""
    import keras

    rate: Any = options.learning_rate
    if options.schedule == "one-cycle":  # up in a straight line for the first fifth, down in half a cosine
        total = max(options.epochs, 1) * steps
        rate = keras.optimizers.schedules.CosineDecay(
            rate / 25, total - total // 5, warmup_target=rate, warmup_steps=total // 5
        )
    if options.optimizer == "adam":
        return keras.optimizers.Adam(rate)
    if options.optimizer == "muon":
        from cifake_core.training.muon import Muon

        return Muon(rate, weight_decay=options.weight_decay, adam_weight_decay=None)
    optimizer = keras.optimizers.AdamW(rate, weight_decay=options.weight_decay)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


def feed(
    arrays: Arrays,
    batch_size: int,
    augmentation: Augmentation | None = None,
    teachers: Sequence[keras.Model] = (),
) -> Callable[..., tf.data.Dataset]:
    """From an order of rows to batches: pixels stay one uint8 tensor in memory, gathered per batch.

    The changes of an augmentation depend on the seeds given and the batch's number. Targets are labels (K, 1); where
    images are mixed or there are teachers (K, 2): the label of most of the image, and the mixed label or the teachers'
    mean answer.
    """
    import tensorflow as tf

    images, labels = tf.constant(arrays.images), tf.constant(arrays.labels[:, None], tf.float32)
    fixed = tf.data.Options()
    fixed.autotune.enabled = False  # there is nothing to tune, and its thread holds up the end of an epoch

    def batches(order: np.ndarray, *seeds: int) -> tf.data.Dataset:
        rows = tf.data.Dataset.from_tensor_slices(order).batch(batch_size).with_options(fixed)
        if not augmentation or not augmentation.active:
            return taught(rows.map(lambda index: (tf.gather(images, index), tf.gather(labels, index)))).prefetch(2)

        def change(number: np.ndarray, pixels: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            rng = np.random.default_rng([*seeds, int(number)])
            pixels = augment(pixels, augmentation, rng)
            if not augmentation.cutmix:
                return pixels, label
            pixels, mixed = mix(pixels, label, augmentation, rng)
            return pixels, np.concatenate([np.rint(mixed), mixed], 1)

        def changed(number: tf.Tensor, index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            plain = [number, tf.gather(images, index), tf.gather(labels, index)]
            pixels, targets = tf.numpy_function(change, plain, [tf.uint8, tf.float32])
            columns = 2 if augmentation.cutmix else 1
            return tf.ensure_shape(pixels, [None, *images.shape[1:]]), tf.ensure_shape(targets, [None, columns])

        return taught(rows.enumerate().map(changed)).prefetch(4)

    def ask(pixels: tf.Tensor, targets: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        answers = [teacher(pixels, training=False) for teacher in teachers]
        return pixels, tf.concat([targets[:, :1], tf.add_n(answers) / len(answers)], 1)

    def taught(found: tf.data.Dataset) -> tf.data.Dataset:
        return found.map(ask) if teachers else found

    return batches


def _epoch_metrics(logs: dict[str, list[float]], seconds: float) -> dict[str, float]:
    found = {name: float(values[0]) for name, values in logs.items()}
    for prefix in ("", "val_"):
        if f"{prefix}precision" in found:
            precision, recall = found[f"{prefix}precision"], found[f"{prefix}recall"]
            found[f"{prefix}f1"] = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return found | {"seconds": seconds}


def _line(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name} {metrics[name]:.4f}" for name in ("loss", "accuracy", "val_accuracy") if name in metrics)


def _bar(what: str) -> keras.callbacks.Callback:
    import keras
    from tqdm import tqdm

    class Bar(keras.callbacks.Callback):
        def on_train_begin(self, logs: Any = None) -> None:
            total = self.params.get("steps")
            self.bar = tqdm(desc=what, total=total, unit="batch", leave=False, disable=not sys.stderr.isatty())

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.bar.update(batch + 1 - self.bar.n)

        def on_train_end(self, logs: Any = None) -> None:
            self.bar.close()

    return Bar()


def _save(folder: Path | None, state: list[keras.Variable], history: list[dict[str, float]]) -> None:
    """Keep all that an epoch changes: weights, statistics, random states, the optimiser's moments and its step."""
    if not folder:
        return
    buffer = io.BytesIO()
    values = {f"variable_{i}": np.asarray(variable) for i, variable in enumerate(state)}
    np.savez(buffer, history=np.array(json.dumps(history)), **values)  # type: ignore[arg-type]
    Store(folder.as_uri()).write(CHECKPOINT, buffer.getvalue())


def _restore(folder: Path | None, state: list[keras.Variable]) -> list[dict[str, float]]:
    if not folder or not (folder / CHECKPOINT).exists():
        return []
    with np.load(folder / CHECKPOINT) as kept:
        for index, variable in enumerate(state):
            variable.assign(kept[f"variable_{index}"])
        history: list[dict[str, float]] = json.loads(str(kept["history"]))
    log.info("continuing after epoch %d", len(history))
    return history
