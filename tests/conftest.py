"""Fixtures every room's tests share. A room's own fixtures live in that room's conftest."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from cifake_core.settings import settings
from cifake_core.storage import Store

CHECKOUT = Path(__file__).resolve().parent.parent

# Nothing a test starts may phone home or colour its output.
os.environ.update(
    BENTOML_DO_NOT_TRACK="true",
    GX_ANALYTICS_ENABLED="false",
    MLFLOW_DISABLE_TELEMETRY="true",
    NO_COLOR="1",
    TF_CPP_MIN_LOG_LEVEL="2",
    HF_HUB_OFFLINE="1",
)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty CIFAKE_HOME for each test; stores and databases default to folders in it."""
    folder = tmp_path / "home"
    monkeypatch.setenv("CIFAKE_HOME", str(folder))
    for name in ("CIFAKE_STORE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    settings.cache_clear()
    yield folder
    settings.cache_clear()


@pytest.fixture
def store(home: Path) -> Store:
    """The default store of this test's CIFAKE_HOME."""
    return Store()


@pytest.fixture
def rng() -> np.random.Generator:
    """A seeded generator of random numbers."""
    return np.random.default_rng(0)
