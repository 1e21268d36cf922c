"""Model versions in the registry, and their bundles on local disk: resolve, fetch, verify, cache.

In the cache a bundle's folder is named by the SHA-256 of its `detector.json`, which records the hashes of its other
files; so the name vouches for every byte. A version's tag `bundle_sha256` is that same hash.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError

from cifake_core import bundle
from cifake_core.errors import ModelError, NotRegisteredError, StoreError
from cifake_core.mlflow_client import client, registry_errors
from cifake_core.settings import MODEL_NAME, PACKAGE, settings

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion as MlflowVersion

logger = logging.getLogger("cifake.registry")

SHIPPED = PACKAGE / "shipped"
KEPT_BUNDLES = 16
_IN_USE_SECONDS = 600  # a bundle or download this young may be another process's, still loading


class ModelVersion(BaseModel, frozen=True):
    """A registered version of the detector."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    name: str
    version: int
    run_id: str
    dataset_version: str
    aliases: list[str] = []
    tags: dict[str, str] = {}
    created: float | None = None  # seconds since 1970


def resolve(ref: str = "champion") -> ModelVersion:
    """The version that an alias or a number names.

    Raises:
        NotRegisteredError: no such alias or version.
        RegistryError: MLflow is unreachable.
    """
    from mlflow.exceptions import MlflowException

    with registry_errors(f"find {MODEL_NAME} {ref!r}"):
        api = client()
        try:
            found = (
                api.get_model_version(MODEL_NAME, ref)
                if ref.isdigit()
                else api.get_model_version_by_alias(MODEL_NAME, ref)
            )
        except MlflowException as exc:
            if exc.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            what = f"version {ref}" if ref.isdigit() else f"alias {ref!r}"
            raise NotRegisteredError(
                f"{MODEL_NAME} has no {what} at {settings().tracking_uri}; train and promote one"
            ) from exc
        data = (found.tags or {}).get("dataset_version")
        if data is None and found.run_id:
            data = api.get_run(found.run_id).data.tags.get("dataset_version")
    return _version(found, data or "")


def versions() -> list[ModelVersion]:
    """All registered versions, oldest first; none when nothing was registered yet.

    Raises:
        RegistryError: MLflow is unreachable.
    """
    with registry_errors(f"list the versions of {MODEL_NAME}"):
        api = client()
        found: list[MlflowVersion] = []
        token = None
        while True:
            page = api.search_model_versions(f"name='{MODEL_NAME}'", max_results=1000, page_token=token)
            found += page
            token = page.token
            if not token:
                break
        # A search leaves the aliases out.
        aliases: dict[str, list[str]] = {}
        if found:
            for alias, number in api.get_registered_model(MODEL_NAME).aliases.items():
                aliases.setdefault(str(number), []).append(alias)
    made = [
        _version(v, (v.tags or {}).get("dataset_version", "")).model_copy(
            update={"aliases": sorted(aliases.get(str(v.version), []))}
        )
        for v in found
    ]
    return sorted(made, key=lambda v: v.version)


def _version(found: MlflowVersion, dataset_version: str) -> ModelVersion:
    return ModelVersion(
        name=MODEL_NAME,
        version=int(found.version),
        run_id=found.run_id or "",
        dataset_version=dataset_version,
        aliases=list(found.aliases or []),
        tags=dict(found.tags or {}),
        created=found.creation_timestamp / 1000 if found.creation_timestamp else None,
    )


def fetch(version: ModelVersion) -> Path:
    """The version's bundle as a folder in CIFAKE_HOME's cache, named by its content; verified, written atomically.

    Safe to call from many processes at once and to kill at any point. A version whose tag `bundle_sha256` names a
    cached bundle needs no MLflow. The least recently used bundles are removed, see `KEPT_BUNDLES`.

    Raises:
        RegistryError: MLflow or its artefacts are unreachable.
        ModelError: the version has no bundle, a file is missing, or a hash is not the recorded one.
        StoreError: the cache cannot be written.
    """
    cache = settings().cache / "models"
    recorded = version.tags.get("bundle_sha256")
    if recorded and _usable(cache / recorded):
        return cache / recorded
    with _cache_errors(cache):
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix="fetch-") as scratch:
            folder = _download(version, scratch)
            digest = bundle.sha256(folder / bundle.FILE)
            if recorded and digest != recorded:
                raise ModelError(
                    f"{version.name} version {version.version}: the bundle's hash {digest[:12]}… is not the one "
                    f"recorded at registration, {recorded[:12]}…; its artefacts were changed"
                )
            _verify(folder)
            target = cache / digest
            if not _usable(target):
                shutil.rmtree(target, ignore_errors=True)
                try:
                    folder.rename(target)
                except OSError:
                    if not _usable(target):  # else another process was quicker
                        raise
        _prune(cache)
    return target


def _download(version: ModelVersion, scratch: str) -> Path:
    import mlflow
    from mlflow.exceptions import MlflowException

    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    what = f"fetch the bundle of {version.name} version {version.version}"
    missing = ModelError(
        f"{version.name} version {version.version}: its run has no artefact {bundle.ARTIFACT_PATH}/{bundle.FILE}; "
        "register it with `cifake train`"
    )
    if not version.run_id:
        raise missing
    with registry_errors(what):
        api = client()
        if not any(Path(f.path).name == bundle.FILE for f in api.list_artifacts(version.run_id, bundle.ARTIFACT_PATH)):
            raise missing
        # By the artefacts' own address: by run id MLflow hides why a download failed.
        address = f"{api.get_run(version.run_id).info.artifact_uri}/{bundle.ARTIFACT_PATH}"
        try:
            return Path(mlflow.artifacts.download_artifacts(artifact_uri=address, dst_path=scratch))
        except MlflowException as exc:
            why = str(exc).splitlines()[-1]
            for full in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                if f"[Errno {full}]" in why:
                    raise OSError(full, os.strerror(full)) from exc
            raise MlflowException(why) from exc


@contextmanager
def _cache_errors(cache: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise StoreError(
            f"{cache}: cannot keep a model bundle: {exc.strerror or exc}; free some space or fix it"
        ) from exc


def _verify(folder: Path) -> None:
    try:
        info = bundle.BundleInfo.model_validate_json((folder / bundle.FILE).read_text())
    except (OSError, ValidationError) as exc:
        raise ModelError(f"{folder}: not a bundle this version of cifake reads") from exc
    for name, expected in info.sha256.items():
        if not (folder / name).is_file() or bundle.sha256(folder / name) != expected:
            raise ModelError(f"{folder / name}: missing, or its SHA-256 is not the recorded one")


def _usable(folder: Path) -> bool:
    """Is this cached folder what its name says? Marks it as used now, for pruning."""
    try:
        if bundle.sha256(folder / bundle.FILE) != folder.name:
            return False
        _verify(folder)
        os.utime(folder)
    except (OSError, ModelError):
        return False
    return True


def _prune(cache: Path) -> None:
    used = {}
    for folder in cache.iterdir():
        if folder.is_dir():
            try:
                used[folder] = folder.stat().st_mtime
            except FileNotFoundError:  # another process prunes too
                continue
    last = last_good()
    bundles = sorted((f for f in used if not f.name.startswith("fetch-")), key=lambda f: -used[f])
    leftovers = [f for f in used if f.name.startswith("fetch-")]
    for folder in bundles[KEPT_BUNDLES:] + leftovers:
        if used[folder] < time.time() - _IN_USE_SECONDS and not (last and folder == last[1]):
            shutil.rmtree(folder, ignore_errors=True)


def remember(version: ModelVersion, folder: Path) -> None:
    """Keep on disk which version was served last and worked, for a start without MLflow; atomic.

    Raises:
        StoreError: the cache cannot be written.
    """
    pointer = settings().cache / "models" / "last-good.json"
    partial = pointer.with_name(f"{pointer.name}.{os.getpid()}.partial")
    with _cache_errors(pointer.parent):
        pointer.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps({"version": version.model_dump(mode="json"), "folder": folder.name}))
        partial.replace(pointer)


def last_good() -> tuple[ModelVersion, Path] | None:
    """The version last remembered and its bundle's folder, or None; whether it still loads is for the caller to see."""
    pointer = settings().cache / "models" / "last-good.json"
    try:
        kept = json.loads(pointer.read_text())
        return ModelVersion.model_validate(kept["version"]), pointer.parent / kept["folder"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def fetched(ref: str = "champion") -> tuple[ModelVersion, Path]:
    """`resolve` and `fetch`; `champion` is the shipped detector while no version has that alias.

    Args:
        ref: an alias, a number, or `shipped`.

    Raises:
        NotRegisteredError, RegistryError, ModelError, StoreError.
    """
    kept = shipped() if ref in ("champion", "shipped") else None
    if ref == "shipped" and kept:
        return kept
    try:
        version = resolve(ref)
    except NotRegisteredError:
        if kept is None:
            raise
        logger.warning("no version is champion yet: the detector that ships with cifake answers, as version 0")
        return kept
    return version, fetch(version)


def shipped() -> tuple[ModelVersion, Path] | None:
    """The detector that ships with cifake, as version 0, and its bundle's folder.

    None where CIFAKE_SHIPPED turns it off, or there is none.
    """
    if not settings().shipped:
        return None
    folder = SHIPPED / bundle.ARTIFACT_PATH
    try:
        info = bundle.BundleInfo.model_validate_json((folder / bundle.FILE).read_text())
    except (OSError, ValidationError):
        return None
    return ModelVersion(name=MODEL_NAME, version=0, run_id="", dataset_version=info.dataset_version), folder
