"""Model versions in the registry, and their bundles on local disk: resolve, fetch, verify, cache."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from cifake_core import bundle
from cifake_core.errors import ModelError
from cifake_core.mlflow_client import client, registry_errors
from cifake_core.settings import MODEL_NAME, settings


class ModelVersion(BaseModel, frozen=True):
    """A registered version of the detector."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    name: str
    version: int
    run_id: str
    dataset_version: str
    aliases: list[str] = []
    tags: dict[str, str] = {}


def resolve(ref: str = "champion") -> ModelVersion:
    """The version that an alias or a number names.

    Raises:
        RegistryError: no such alias or version, or MLflow is unreachable.
    """
    api = client()
    with registry_errors(f"find {MODEL_NAME} {ref!r}"):
        if ref.isdigit():
            found = api.get_model_version(MODEL_NAME, ref)
        else:
            found = api.get_model_version_by_alias(MODEL_NAME, ref)
        tags = dict(found.tags or {})
        data = tags.get("dataset_version") or api.get_run(found.run_id).data.tags.get("dataset_version", "")
    return ModelVersion(
        name=MODEL_NAME,
        version=int(found.version),
        run_id=found.run_id,
        dataset_version=data,
        aliases=list(found.aliases or []),
        tags=tags,
    )


def fetch(version: ModelVersion) -> Path:
    """The version's bundle as a folder in CIFAKE_HOME's cache, named by its content; verified, written atomically.

    Raises:
        RegistryError: MLflow or its artefacts are unreachable.
        ModelError: a file is missing or its hash is not the recorded one.
    """
    import mlflow

    client()
    cache = settings().cache / "models"
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix="fetch-") as scratch:
        with registry_errors(f"fetch the bundle of {version.name} version {version.version}"):
            info = mlflow.artifacts.download_artifacts(
                run_id=version.run_id, artifact_path=f"{bundle.ARTIFACT_PATH}/{bundle.FILE}", dst_path=scratch
            )
        target = cache / hashlib.sha256(Path(info).read_bytes()).hexdigest()[:16]
        if target.exists():
            try:
                _verify(target)
                return target
            except ModelError:
                shutil.rmtree(target, ignore_errors=True)
        with registry_errors(f"fetch the bundle of {version.name} version {version.version}"):
            folder = Path(
                mlflow.artifacts.download_artifacts(
                    run_id=version.run_id, artifact_path=bundle.ARTIFACT_PATH, dst_path=scratch
                )
            )
        _verify(folder)
        try:
            folder.rename(target)
        except OSError:  # another process was quicker
            _verify(target)
    return target


def _verify(folder: Path) -> None:
    info = bundle.BundleInfo.model_validate_json((folder / bundle.FILE).read_text())
    for name, expected in info.sha256.items():
        if not (folder / name).is_file() or bundle.sha256(folder / name) != expected:
            raise ModelError(f"{folder / name}: missing, or its SHA-256 is not the recorded one")
