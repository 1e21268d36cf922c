"""`cifake train` as a function: dataset version → fitted, checked, recorded and registered model version."""

from __future__ import annotations

import fcntl
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from cifake_core import bundle, pipeline_metrics
from cifake_core.errors import ConfigurationError, DatasetError, StoreError
from cifake_core.evaluation.metrics import binary_report
from cifake_core.images import dataset
from cifake_core.settings import LABELS, REAL, settings
from cifake_core.storage import Store
from cifake_core.training import plots, topologies, tracking
from cifake_core.training.epochs import Arrays, balanced
from cifake_core.training.export import export
from cifake_core.training.fit import fit
from cifake_core.training.options import Options, fingerprint
from cifake_core.validation.link import link

log = logging.getLogger(__name__)


class Trained(BaseModel, frozen=True):
    """What a training made. `metrics` are on the test split; precision, recall and F1 are of REAL.

    A member of a sweep has no `model_version`.
    """

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    run_id: str
    model_version: int | None
    dataset_version: str
    metrics: dict[str, float]


def train(store: Store, version: str, options: Options, sweep: str | None = None) -> Trained:
    """Train on a dataset version and register the result as a model version, without an alias.

    Killed at any point and called again with the same options, it goes on after the last whole epoch, in the same
    MLflow run, to the same weights. A version is registered as the very last step.

    Raises:
        ConfigurationError: unknown topology, a version to start from that has another one, or the same training is
            running already.
        DatasetError: no such dataset version, or a split that is needed is missing.
        RegistryError: MLflow is unreachable; found out before training starts.
        ModelError: the exported graphs disagree with Keras; nothing is registered.
        StoreError: the disk is full, or cannot be written.
    """
    topologies.check(options.topology)
    manifest = dataset.load(store, version)
    for split in ("train", "test"):
        if missing := set(LABELS) - manifest.counts.get(split, {}).keys():
            raise DatasetError(
                f"dataset version {version} has no {' and no '.join(sorted(missing))} rows in its {split} split; "
                "build one with --train-rows and --test-rows above 0"
            )
    name = fingerprint(options, version, settings().tracking_uri, *([sweep] if sweep else []))
    folder = settings().home / "training" / name
    url = store.url_of(f"datasets/{version}")
    with _alone(folder):
        with tracking.run(options, manifest, url, folder / "run_id", sweep) as run_id:
            if not tracking.finished(run_id):
                _record(store, manifest, options, folder, run_id)
            metrics = tracking.test_metrics(run_id)
            number = None if sweep else tracking.register(run_id)
        shutil.rmtree(folder)
    return Trained(run_id=run_id, model_version=number, dataset_version=version, metrics=metrics)


def _record(store: Store, manifest: dataset.Manifest, options: Options, folder: Path, run_id: str) -> None:
    """Fit, export, measure; everything about it goes into the run, what is needed to register it last."""
    version = manifest.version
    train_rows, test_rows = (Arrays(*dataset.arrays(store, manifest, split)) for split in ("train", "test"))
    if options.generator_share:
        generators = dataset.read(store, manifest, "train")["generator"].to_pylist()
        groups = balanced(train_rows.labels, generators, options.generator_share)
        train_rows = replace(train_rows, groups=groups)
    validation_rows = (
        Arrays(*dataset.arrays(store, manifest, "validation")) if manifest.counts.get("validation") else None
    )

    def on_epoch(history: list[dict[str, float]]) -> None:
        tracking.log_epochs(run_id, history)
        pipeline_metrics.epoch(options.topology, version, options.epochs, history)

    starts = [tracking.load_model(number, options.topology) for number in options.start]
    if options.members:
        from cifake_core.training import ensemble

        starts = [ensemble.of([tracking.load_model(number) for number in options.members])]
    teachers = [tracking.load_model(number) for number in options.teachers]
    fitted = fit(
        options,
        train_rows,
        validation_rows,
        starts=starts,
        teachers=teachers,
        folder=folder,
        on_epoch=on_epoch,
    )
    tracking.log_epochs(run_id, fitted.history)
    artifacts = folder / "artifacts"
    shutil.rmtree(artifacts, ignore_errors=True)
    artifacts.mkdir()
    info = export(
        fitted.model,
        artifacts / bundle.ARTIFACT_PATH,
        test_rows.images,
        topology=options.topology,
        dataset_version=version,
        run_id=run_id,
        seed=options.seed,
        reference=(validation_rows or test_rows).images,
        extra={"resized_to": options.image_size},
    )
    detector = bundle.Detector(artifacts / bundle.ARTIFACT_PATH)
    report = test_report(detector, test_rows, dataset.read(store, manifest, "test")["class"])
    if fitted.history:
        plots.curves(fitted.history, artifacts / "training_curves.png")
    plots.confusion(report["all"]["confusion"], f"{options.topology}, test", artifacts / "confusion_matrix.png")
    tracking.write_artifacts(artifacts, fitted.model, {"test_report": report, "history": fitted.history})
    metrics = headline(report["all"])
    example = np.ascontiguousarray(test_rows.images[:2])
    measured = {**metrics, "latency_ms": detector.latency_ms(example[:1])}
    named = {f"test_{name}": value for name, value in measured.items()}
    uri = tracking.log_model(run_id, fitted.model, example, named, artifacts)
    tags = {
        "dataset_version": version,
        "topology": options.topology,
        "parameters": info.parameters,
        "seed": options.seed,
        "accuracy": metrics["accuracy"],
        "f1": metrics["f1"],
        "bundle_sha256": bundle.sha256(artifacts / bundle.ARTIFACT_PATH / bundle.FILE),
        **link(store, version, run_id),
    }
    tracking.log_outcome(run_id, uri, tags)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold a training's folder, made if need be; the lock goes with the process, however it ends.

    Raises:
        ConfigurationError: another process holds it. StoreError: the disk is full, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as exc:
                raise ConfigurationError(
                    f"the same training runs already ({folder}); wait for it, or choose another --seed"
                ) from exc
            yield
    except OSError as exc:
        raise StoreError(f"{folder}: {exc.strerror or exc}; what was kept is gone on with next time") from exc


def test_report(detector: bundle.Detector, rows: Arrays, classes: Any) -> dict[str, Any]:
    """A detector on a test split: one report over all rows and one per object class."""
    scores = detector.probability_real(rows.images)
    kinds = np.array(classes.to_pylist())
    return {
        "all": binary_report(rows.labels, scores).model_dump(),
        "classes": {
            kind: binary_report(rows.labels[kinds == kind], scores[kinds == kind]).model_dump()
            for kind in sorted(set(kinds))
        },
    }


def headline(report: dict[str, Any]) -> dict[str, float]:
    """The few figures that name a model; precision, recall and F1 are of REAL."""
    real = report["labels"][LABELS[REAL]]
    return {
        "accuracy": report["accuracy"],
        **{name: real[name] for name in ("precision", "recall", "f1")},
        **{name: report[name] for name in ("auroc", "brier", "ece") if report[name] is not None},
    }
