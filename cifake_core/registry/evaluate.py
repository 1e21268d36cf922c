"""Evaluate a registered version: fetch, score, report to the store and to the version's MLflow run."""

from __future__ import annotations

import re
import time
from typing import Any

from cifake_core import pipeline_metrics
from cifake_core.bundle import Detector
from cifake_core.errors import ModelError
from cifake_core.evaluation import averaging, report, testset
from cifake_core.mlflow_client import client, registry_errors
from cifake_core.registry.artifacts import ModelVersion, fetch, resolve
from cifake_core.storage import Store


def evaluate_version(
    ref: str, dataset_version: str | None = None, unseen: str | None = None, damage_rows: int = 2000
) -> dict[str, Any]:
    """Evaluate a version (number or alias) on a dataset version's test split; its own by default.

    Returns:
        version, dataset_version, metrics (name → value), report_url.

    Raises:
        RegistryError, ModelError, DatasetError, StoreError.
    """
    version = resolve(ref)
    store = Store()
    images = testset.load(store, dataset_of(version, dataset_version), unseen)
    detector = Detector(fetch(version))
    scored = testset.score_slices(detector.probability_real, images, detector.info.threshold, damage_rows)
    averages = averaging.measure(detector.probability_real, images, scored[testset.WHOLE], damage_rows)
    evaluation = report.summarise(f"{version.name} version {version.version}", images, scored, averages)
    files = {
        "report.json": evaluation.model_dump_json(indent=2),
        "report.html": report.page(evaluation, images, scored),
    }
    folder = f"evaluation/{version.name}-{version.version}/{images.dataset_version}"
    for name, text in files.items():
        store.write(f"{folder}/{name}", text.encode())
    pipeline_metrics.evaluation(version.version, images.dataset_version, evaluation.scalars())
    # What the version was trained on is what its figures are by default of; another dataset's do not take their place.
    part = "" if images.dataset_version == version.dataset_version else f"/{images.dataset_version}"
    log_to_run(version, f"evaluation{part}", files, {f"test{part}/{k}": v for k, v in evaluation.scalars().items()})
    return {
        "version": version.version,
        "dataset_version": images.dataset_version,
        "metrics": evaluation.scalars(),
        "report_url": store.url_of(f"{folder}/report.html"),
    }


def dataset_of(version: ModelVersion, asked: str | None = None) -> str:
    """The dataset version to judge a version on: the one asked for, else the one it was trained on.

    Raises:
        ModelError: none is recorded.
    """
    if found := asked or version.dataset_version:
        return found
    raise ModelError(f"{version.name} version {version.version} records no dataset version; name one with --dataset")


def log_to_run(version: ModelVersion, folder: str, files: dict[str, str], metrics: dict[str, float]) -> None:
    """Put text artefacts and metrics into the run that made a version.

    Raises:
        RegistryError: MLflow refuses, or is unreachable.
    """
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    with registry_errors(f"log the {folder} of version {version.version}"):
        api = client()
        for name, text in files.items():
            api.log_text(version.run_id, text, f"{folder}/{name}")
        named = {re.sub(r"[^\w\-. :/]", "_", name): value for name, value in metrics.items()}  # what MLflow allows
        api.log_batch(version.run_id, metrics=[Metric(name, value, now, 0) for name, value in named.items()])
