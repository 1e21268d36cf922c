"""A training's record in MLflow: the run, its artefacts, and the model version made from it."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import platform
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from cifake_core.errors import ConfigurationError
from cifake_core.images.codec import SIZE
from cifake_core.images.dataset import Manifest
from cifake_core.mlflow_client import client, experiment_id, registry_errors
from cifake_core.settings import MODEL_NAME
from cifake_core.storage import Store
from cifake_core.training.options import Options, code_sha256

if TYPE_CHECKING:
    import keras

OUTCOME = "cifake.outcome"
MODEL_FILE = "CNN_model.h5"

log = logging.getLogger(__name__)


@contextmanager
def run(options: Options, manifest: Manifest, dataset_url: str, note: Path, parent: str | None = None) -> Iterator[str]:
    """The MLflow run of a training, open while inside; FAILED when left by an error, and then reopened next time.

    Args:
        note: file that remembers the run's id, so that a continued training goes on in its run.
        parent: the run that this one is nested in.

    Raises:
        RegistryError: MLflow is unreachable.
    """
    with registry_errors("open a run"):
        import mlflow

        for noisy in ("mlflow", "alembic"):
            logging.getLogger(noisy).setLevel(logging.ERROR)
        experiment = experiment_id()
        run_id = _reopened(note)
        active = mlflow.start_run(
            run_id=run_id,
            experiment_id=None if run_id else experiment,
            run_name=None if run_id else f"{options.topology}-{manifest.version[:8]}",
            parent_run_id=None if run_id else parent,
            log_system_metrics=False,
        )
    try:
        run_id = active.info.run_id
        Store(note.parent.as_uri()).write(note.name, run_id.encode())
        with registry_errors("log a run"):
            mlflow.set_tags(
                {
                    "dataset_version": manifest.version,
                    "topology": options.topology,
                    "code_sha256": code_sha256(),
                    "cifake_version": importlib.metadata.version("cifake"),
                }
            )
            mlflow.log_params({**options.parameters(), "dataset_version": manifest.version})
            mlflow.log_input(_dataset(manifest, dataset_url), context="training")
        yield run_id
    except BaseException:
        with suppress(Exception):  # the first error is the one to be told
            mlflow.end_run("FAILED")
        raise
    with registry_errors("close a run"):
        mlflow.end_run()


def _reopened(note: Path) -> str | None:
    from mlflow.exceptions import MlflowException

    run_id = note.read_text() if note.exists() else ""
    if not run_id:
        return None
    try:
        found = client().get_run(run_id)
    except MlflowException as exc:
        if exc.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
    return str(found.info.run_id) if found.info.lifecycle_stage == "active" else None


def _dataset(manifest: Manifest, url: str) -> Any:
    from mlflow.data.dataset_source_registry import resolve_dataset_source
    from mlflow.data.meta_dataset import MetaDataset

    with warnings.catch_warnings():  # that a file:// URL suits two kinds of source
        warnings.simplefilter("ignore")
        source = resolve_dataset_source(f"{url}/manifest.json")
    made: type[Any] = MetaDataset
    return made(source, name="cifake", digest=manifest.version)


def log_epochs(run_id: str, history: list[dict[str, float]]) -> None:
    """Log the epochs that the run does not have yet; steps count from 1."""
    from mlflow.entities import Metric

    with registry_errors("log metrics"):
        api = client()
        logged = {metric.step for metric in api.get_metric_history(run_id, "loss")}
        for step, metrics in enumerate(history, start=1):
            if step not in logged:
                # `loss` last: it is what says that an epoch was logged.
                names = sorted(metrics, key=lambda name: (name == "loss", name))
                api.log_batch(run_id, [Metric(name, metrics[name], int(time.time() * 1000), step) for name in names])


def log_model(run_id: str, model: keras.Model, example: np.ndarray, metrics: dict[str, float], artifacts: Path) -> str:
    """Log the Keras model, test metrics and a folder of artefacts to the run; the logged model's URI.

    Args:
        example: (K, 32, 32, 3) uint8, kept as the model's input example.
    """
    import mlflow
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import Model, infer_signature

    with registry_errors("log a model"), TemporaryDirectory() as folder:
        mlflow.log_metrics(metrics)
        mlflow.log_artifacts(str(artifacts))
        logged = mlflow.initialize_logged_model(name="model", source_run_id=run_id, model_type="classifier")
        # `mlflow.keras.log_model` cannot write an input example: it does so before it has made the folder.
        mlflow.keras.save_model(
            model,
            folder,
            mlflow_model=Model(run_id=run_id, model_id=logged.model_id),
            signature=infer_signature(example, np.zeros((len(example), 1), np.float32)),
            input_example=example,
            pip_requirements=[f"{name}=={importlib.metadata.version(name)}" for name in _runtime_packages()],
        )
        client().log_model_artifacts(logged.model_id, folder)
        mlflow.finalize_logged_model(logged.model_id, "READY")
        client().log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
    return f"models:/{logged.model_id}"


def _runtime_packages() -> list[str]:
    installed = {d.metadata["Name"].lower().replace("_", "-") for d in importlib.metadata.distributions()}
    tensorflow = "tensorflow-cpu" if "tensorflow-cpu" in installed else "tensorflow"
    return ["mlflow", "keras", tensorflow, "numpy"]


def environment() -> str:
    """Python, platform and every installed distribution, one a line."""
    packages = sorted({f"{d.metadata['Name']}=={d.version}" for d in importlib.metadata.distributions()}, key=str.lower)
    return "\n".join([f"# Python {sys.version.split()[0]}, {platform.platform()}", *packages, ""])


def log_outcome(run_id: str, model_uri: str, tags: dict[str, Any]) -> None:
    """Keep with the run what registering its model takes: the model's URI and the version's tags.

    The last thing a training writes into its run: nothing is uploaded again once it is there.
    """
    with registry_errors("log a run"):
        client().set_tag(run_id, OUTCOME, json.dumps({"uri": model_uri, "tags": {k: str(v) for k, v in tags.items()}}))


def finished(run_id: str) -> bool:
    """Has a run its outcome already? Then only registering it is left."""
    with registry_errors("read a run"):
        return OUTCOME in client().get_run(run_id).data.tags


def test_metrics(run_id: str) -> dict[str, float]:
    """A run's figures on the test split, as its training logged them, without `test_`; latency is left out."""
    with registry_errors("read a run"):
        logged = client().get_run(run_id).data.metrics
    names = sorted(name for name in logged if name.startswith("test_") and name != "test_latency_ms")
    return {name.removeprefix("test_"): logged[name] for name in names}


def register(run_id: str, alias: str | None = None) -> int:
    """Make a run's model a version of the detector; the version. A run makes one version only.

    Args:
        alias: set on the version, too, unless it is the champion.
    """
    import mlflow

    with registry_errors(f"register {MODEL_NAME}"):
        api = client()
        made = [int(v.version) for v in api.search_model_versions(f"name='{MODEL_NAME}' and run_id='{run_id}'")]
        if not made:
            outcome = json.loads(api.get_run(run_id).data.tags[OUTCOME])
            made = [int(mlflow.register_model(outcome["uri"], MODEL_NAME, tags=outcome["tags"]).version)]
        if alias and "champion" not in api.get_model_version(MODEL_NAME, str(made[0])).aliases:
            api.set_registered_model_alias(MODEL_NAME, alias, str(made[0]))
        return made[0]


def find_version(reference: str, option: str) -> tuple[int, dict[str, Any]]:
    """Number and shape (topology, image_size) of a version, from its number or alias as given on the command line.

    Raises:
        ConfigurationError: no such version, or not one of ours; RegistryError: MLflow is unreachable.
    """
    from mlflow.exceptions import MlflowException

    with registry_errors(f"find {MODEL_NAME} {reference!r}"):
        api = client()
        try:
            if not reference.isdigit():
                reference = api.get_model_version_by_alias(MODEL_NAME, reference).version
            found = api.get_model_version(MODEL_NAME, reference)
        except MlflowException as exc:
            if exc.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            raise ConfigurationError(f"{option}: {MODEL_NAME} has no version or alias {reference!r}") from exc
        params = api.get_run(found.run_id).data.params if found.run_id else {}
    if "topology" not in found.tags:
        raise ConfigurationError(f"{option}: version {reference} has no tag `topology`; `cifake train` made none such")
    return int(reference), {"topology": found.tags["topology"], "image_size": int(params.get("image_size", SIZE))}


def load_model(version: int, topology: str | None = None) -> keras.Model:
    """The Keras model of a registered version.

    Raises:
        ConfigurationError: it is not of the topology asked for; RegistryError: MLflow or its artefacts are unreachable.
    """
    import keras
    import mlflow

    with registry_errors(f"fetch {MODEL_NAME} version {version}"), TemporaryDirectory() as folder:
        found = client().get_model_version(MODEL_NAME, str(version))
        if topology and found.tags.get("topology") != topology:
            raise ConfigurationError(
                f"version {version} is a {found.tags.get('topology')!r}: its weights do not fit a {topology!r}"
            )
        artifacts = client().get_run(found.run_id or "").info.artifact_uri
        file = mlflow.artifacts.download_artifacts(artifact_uri=f"{artifacts}/{MODEL_FILE}", dst_path=folder)
        return keras.saving.load_model(file, compile=False)


def write_artifacts(folder: Path, model: keras.Model, reports: dict[str, Any]) -> None:
    """Put the paper's `CNN_model.h5`, the environment and JSON reports into an artefact folder."""
    logging.getLogger("absl").setLevel(logging.ERROR)  # Keras calls HDF5 legacy; the paper's file is one
    # Without the optimiser: writing it takes it out of the model's own configuration, so that `.keras` would lack it.
    model.save(str(folder / MODEL_FILE), include_optimizer=False)
    (folder / "environment.txt").write_text(environment())
    for name, report in reports.items():
        (folder / f"{name}.json").write_text(json.dumps(report, indent=2))
