"""A cleared MLflow server as this process's registry, and contests between models that a test makes up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cifake_core.images.dataset import Manifest
from cifake_core.registry import promotion
from cifake_core.settings import settings
from cifake_core.storage import Store
from tests.registry import voting
from tests.servers import MlflowServer


@pytest.fixture
def mlflow(mlflow_server: MlflowServer, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MlflowServer]:
    """The session's MLflow server, empty, as MLFLOW_TRACKING_URI."""
    mlflow_server.clear()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.url)
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    settings.cache_clear()
    yield mlflow_server
    settings.cache_clear()


@dataclass
class Field:
    """A validated dataset version and versions of voting models registered for it: `versions[i]` is model i's."""

    store: Store
    manifest: Manifest
    versions: list[int]
    server: MlflowServer
    folder: Path

    def add(self, model: int, name: str, **options: object) -> int:
        """Register another bundle of a model."""
        bundle = voting.write_bundle(self.folder / name, model, self.manifest.version, **options)  # type: ignore[arg-type]
        return self.server.register(bundle)


@pytest.fixture
def policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This process's gate: the shipped one, but that it damages 40 images, not all of them, in each of 15 ways."""
    shipped = promotion.POLICY.read_text()
    assert "damage_rows: 2000 " in shipped
    file = tmp_path / "gates.yaml"
    file.write_text(shipped.replace("damage_rows: 2000 ", "damage_rows: 40 "))
    monkeypatch.setattr(promotion, "POLICY", file)
    return file


@pytest.fixture
def field(mlflow: MlflowServer, store: Store, tmp_path: Path, policy: Path) -> Callable[..., Field]:
    """`field(right, …, rows=400)`: models that answer test images rightly where their functions say so."""

    def make(*right: Callable[[int, int, str], bool], rows: int = 400, validated: bool = True) -> Field:
        manifest = voting.write_images(store, rows, list(right))
        voting.say_validated(store, manifest.version, validated)
        made = Field(store, manifest, [], mlflow, tmp_path / "bundles")
        for model, is_right in enumerate(right):
            made.versions.append(made.add(model, f"model{model}", gain=voting.calibrated_gain(is_right, rows)))
        return made

    return make
