"""What the pipeline's steps tell Prometheus through the push gateway; each function is one step's figures.

Nothing happens unless CIFAKE_PUSH_GATEWAY is set. A push replaces what the same job and grouping pushed before.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from cifake_core.push import push
from cifake_core.settings import settings

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

Labels = Mapping[str, str]


def _registry(values: Iterable[tuple[str, str, Labels, float]]) -> CollectorRegistry:
    """Gauges from (name without prefix, help, labels, value)."""
    from prometheus_client import CollectorRegistry, Gauge

    registry = CollectorRegistry()
    gauges: dict[str, Any] = {}
    for name, text, labels, value in values:
        if name not in gauges:
            gauges[name] = Gauge(f"cifake_{name}", text, list(labels), registry=registry)
        (gauges[name].labels(**labels) if labels else gauges[name]).set(value)
    return registry


def _tell(job: str, values: Callable[[], Iterable[tuple[str, str, Labels, float]]], **grouping: str) -> None:
    if settings().push_gateway:
        push(job, _registry(values()), grouping)


def dataset(version: str, counts: Mapping[str, Mapping[str, int]], generators: Mapping[str, Mapping[str, int]]) -> None:
    """A dataset version that was built: rows by split and label, FAKE rows by split and generator."""

    def values() -> Iterable[tuple[str, str, Labels, float]]:
        named = {"dataset_version": version}
        yield "dataset_created_timestamp_seconds", "When the newest dataset version was built.", named, time.time()
        for split, rows in counts.items():
            for label, number in rows.items():
                yield "dataset_rows", "Rows of the newest version.", {**named, "split": split, "label": label}, number
        for split, rows in generators.items():
            for generator, number in rows.items():
                labels = {**named, "split": split, "generator": generator}
                yield "dataset_generator_rows", "FAKE rows of the newest version.", labels, number

    _tell("dataset", values)


def shard(generator: str, name: str, done: int, rows: int, rate: float) -> None:
    """A shard being drawn: `done` of `rows` images, at `rate` images a second."""

    def values() -> Iterable[tuple[str, str, Labels, float]]:
        yield "generation_images", "Images of the shard that are drawn.", {}, done
        yield "generation_images_per_second", "Images drawn a second by this run.", {}, rate
        if rate > 0:
            yield "generation_eta_seconds", "Time until the shard is done.", {}, (rows - done) / rate

    _tell("generate", values, generator=generator, shard=name)


def epoch(topology: str, dataset_version: str, epochs: int, history: list[dict[str, float]]) -> None:
    """A training after an epoch; `history` as `fit` keeps it."""

    def values() -> Iterable[tuple[str, str, Labels, float]]:
        named, last = {"dataset_version": dataset_version}, history[-1]
        yield "training_epoch", "Epochs done.", named, len(history)
        yield "training_epochs", "Epochs there will be.", named, epochs
        yield "training_epoch_seconds", "Time the last epoch took.", named, last["seconds"]
        for split, prefix in (("train", ""), ("validation", "val_")):
            for kind in ("loss", "accuracy"):
                if f"{prefix}{kind}" in last:
                    text = f"{kind.title()} after the last epoch."
                    yield f"training_{kind}", text, {**named, "split": split}, last[f"{prefix}{kind}"]

    _tell("train", values, topology=topology)


def evaluation(version: int, dataset_version: str, figures: Mapping[str, float]) -> None:
    """A model version's figures on a test split: `figures` by name, slices as `slice/…`, generators as `unseen/…`."""

    def values() -> Iterable[tuple[str, str, Labels, float]]:
        named = {"model_version": str(version), "dataset_version": dataset_version}
        for figure, value in figures.items():
            kind, _, part = figure.partition("/")
            if kind == "slice":
                yield "evaluation_slice_accuracy", "Accuracy on a slice.", {**named, "slice": part}, value
            elif not part:
                yield "evaluation_score", "A figure of the whole test split.", {**named, "metric": figure}, value
            elif kind == "unseen" and part.endswith("/recall"):
                labels = {**named, "generator": part.removesuffix("/recall")}
                yield "evaluation_unseen_recall", "Share of an unseen generator's images called FAKE.", labels, value

    _tell("evaluate", values)


def gate(kind: str, version: int, champion: int | None, checks: Mapping[str, bool], compared: Labels | Any) -> None:
    """A decision of the gate.

    Args:
        kind: promoted, refused or forced; the last of each kind is kept.
        checks: check → passed.
        compared: slice → (candidate's accuracy, champion's accuracy or None).
    """

    def decision() -> Iterable[tuple[str, str, Labels, float]]:
        text = "When the gate last decided this way."
        yield "gate_decision_timestamp_seconds", text, {"model_version": str(version)}, time.time()

    def values() -> Iterable[tuple[str, str, Labels, float]]:
        for check, passed in checks.items():
            labels = {"check": check, "model_version": str(version)}
            yield "gate_check_passed", "1 when a check of the last decision held.", labels, passed
        for part, scores in compared.items():
            for role, number, score in zip(("candidate", "champion"), (version, champion), scores, strict=True):
                if score is not None:
                    labels = {"slice": part, "role": role, "model_version": str(number)}
                    yield "gate_accuracy", "Accuracy in the last decision.", labels, score

    _tell("promote", values)
    _tell("gate", decision, kind=kind)


def dag_run(dag_id: str, state: str, ended: float, seconds: float) -> None:
    """A DAG's run that ended; the last of each state is kept."""

    def values() -> Iterable[tuple[str, str, Labels, float]]:
        yield "dag_run_ended_timestamp_seconds", "When the last run with this outcome ended.", {}, ended
        yield "dag_run_seconds", "How long it took.", {}, seconds

    _tell("airflow", values, dag_id=dag_id, state=state)
