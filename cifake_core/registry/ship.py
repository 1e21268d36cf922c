"""The detector that ships inside the package: make it from a registered version, and register it elsewhere."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from cifake_core import bundle
from cifake_core.errors import ConfigurationError, DatasetError
from cifake_core.mlflow_client import client, experiment_id, registry_errors
from cifake_core.registry.artifacts import SHIPPED, fetch, resolve, shipped, versions
from cifake_core.settings import REAL
from cifake_core.storage import Store

SURE = 0.98  # how often an answer outside the abstain band is to be right, on validation images
MOST_UNSURE = 0.05  # the widest band: this share of validation images


def ship(ref: str, out: Path | None = None) -> dict[str, Any]:
    """Write a version's bundle and Keras file to a folder, with threshold and abstain band from its validation images.

    Both are by the validation split of its dataset version, as it is and damaged, for images rarely arrive undamaged.
    The threshold is where balanced accuracy is best; the band is the narrowest around it outside which `SURE` of the
    answers are right, but no wider than `MOST_UNSURE` of the images.

    Args:
        ref: a version's number or alias.
        out: default: `cifake_core/shipped`.

    Raises:
        NotRegisteredError, RegistryError, ModelError, StoreError.
        DatasetError: its dataset version has no validation split.
    """
    import mlflow

    from cifake_core.evaluation import slices
    from cifake_core.images import dataset
    from cifake_core.training.tracking import MODEL_FILE

    version = resolve(ref)
    source = fetch(version)
    store = Store()
    manifest = dataset.load(store, version.dataset_version)
    if not manifest.counts.get("validation"):
        raise DatasetError(f"dataset version {manifest.version} has no validation split to set a threshold by")
    images, labels = dataset.arrays(store, manifest, "validation")
    shown = np.concatenate([images, slices.damaged_in_turn(images)])
    scores = bundle.Detector(source).probability_real(shown)
    threshold, unsure, figures = operating_point(np.tile(labels, 2), scores)

    target = (out or SHIPPED) / bundle.ARTIFACT_PATH
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        partial = shutil.copytree(source, Path(scratch) / "new")
        info = json.loads((partial / bundle.FILE).read_text())
        with registry_errors(f"fetch the Keras file of version {version.version}"):
            root = client().get_run(version.run_id).info.artifact_uri
            mlflow.artifacts.download_artifacts(artifact_uri=f"{root}/{MODEL_FILE}", dst_path=str(partial))
        _patterns_instead_of_images(partial, MODEL_FILE)
        for name in (MODEL_FILE, "parity.npz"):
            info["sha256"][name] = bundle.sha256(partial / name)
        info |= {"threshold": threshold, "unsure": unsure}
        info["extra"] |= {"validation": figures}
        checked = bundle.BundleInfo.model_validate(info)
        (partial / bundle.FILE).write_text(checked.model_dump_json(indent=2))
        bundle.Detector(partial)
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
    size = sum(file.stat().st_size for file in target.iterdir())
    return {"out": str(target), "bytes": size, "threshold": threshold, "unsure": unsure, "validation": figures}


def _patterns_instead_of_images(folder: Path, model_file: str) -> None:
    """Let the parity examples be patterns, with what Keras gives for them: no data set's images go into the package."""
    import keras
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(0)
    patterns = []
    for sigma in np.linspace(0.3, 4, 32):
        smooth = gaussian_filter(rng.standard_normal((32, 32, 3)), (sigma, sigma, 0.5), mode="wrap")
        patterns.append(np.clip(128 + 60 * smooth / smooth.std(), 0, 255).astype(np.uint8))
    images = np.stack(patterns)
    model = keras.saving.load_model(folder / model_file, compile=False)
    expected = np.asarray(model(images.astype(np.float32)))[:, 0]
    np.savez_compressed(folder / "parity.npz", images=images, probability_real=expected)


def operating_point(labels: np.ndarray, scores: np.ndarray) -> tuple[float, tuple[float, float], dict[str, float]]:
    """Threshold, abstain band and what they give, from labels (N,) and P(REAL) (N,) of validation images."""
    real, fake = np.sort(scores[labels == REAL]), np.sort(scores[labels != REAL])
    places = np.linspace(0.02, 0.98, 193)
    balanced = (1 - np.searchsorted(real, places) / len(real) + np.searchsorted(fake, places) / len(fake)) / 2
    # The middle of the best places: the curve is flat there, and its highest point chance.
    threshold = float(np.median(places[balanced >= balanced.max() - 0.0005]).round(3))
    distance = np.abs(scores - threshold)
    right = (scores >= threshold) == (labels == REAL)
    unsure, widest = (threshold, threshold), float(np.quantile(distance, MOST_UNSURE))
    for half in np.linspace(0, widest, 101).tolist():
        sure = distance >= half
        unsure = round(max(threshold - half, 0), 3), round(min(threshold + half, 1), 3)
        if right[sure].mean() >= SURE:
            break
    sure = (scores <= unsure[0]) | (scores >= unsure[1])
    return (
        threshold,
        unsure,
        {
            "images": len(labels),
            "balanced_accuracy": round(float(balanced.max()), 4),
            "answered": round(float(sure.mean()), 4),
            "accuracy_of_answers": round(float(right[sure].mean()), 4),
        },
    )


def import_shipped() -> dict[str, Any]:
    """Register the shipped detector as a version, with its Keras model; doing it again changes nothing.

    Raises:
        ConfigurationError: this package ships none, or CIFAKE_SHIPPED turns it off.
        RegistryError, ModelError.
    """
    import keras
    import mlflow

    from cifake_core.training import tracking

    kept = shipped()
    if kept is None:
        raise ConfigurationError("no detector ships with this installation (or CIFAKE_SHIPPED turns it off)")
    folder = kept[1]
    digest = bundle.sha256(folder / bundle.FILE)
    for version in versions():
        if version.tags.get("bundle_sha256") == digest:
            return {"version": version.version, "imported": False}
    info = bundle.Detector(folder).info
    with np.load(folder / "parity.npz") as parity:
        example = parity["images"][:2]
    model = keras.saving.load_model(folder / tracking.MODEL_FILE, compile=False)
    with tempfile.TemporaryDirectory() as scratch, registry_errors("register the shipped detector"):
        shutil.copytree(folder, Path(scratch) / bundle.ARTIFACT_PATH)
        shutil.copy(folder / tracking.MODEL_FILE, scratch)
        with mlflow.start_run(experiment_id=experiment_id(), run_name=f"shipped-{info.topology}") as run:
            figures = {f"validation_{name}": float(value) for name, value in info.extra.get("validation", {}).items()}
            uri = tracking.log_model(run.info.run_id, model, example, figures, Path(scratch))
            tags = {
                "dataset_version": info.dataset_version,
                "topology": info.topology,
                "parameters": info.parameters,
                "bundle_sha256": digest,
                "imported": "shipped",
            }
            tracking.log_outcome(run.info.run_id, uri, tags)
        number = tracking.register(run.info.run_id)
    return {"version": number, "imported": True}
