"""Fixtures every room's tests share. A room's own fixtures live in that room's conftest."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cifake_core.settings import settings
from cifake_core.storage import Store

if TYPE_CHECKING:
    from cifake_core.images.dataset import Manifest

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


def _find_real_data() -> tuple[str | None, str]:
    given = os.environ.get("CIFAKE_DATA")
    beside = CHECKOUT.parent / "shared" / "data" / "cifake"
    if given:
        return given, f"{given} (CIFAKE_DATA)"
    if given is None and beside.is_dir():
        return str(beside), str(beside)
    return None, "the offline sample: CIFAKE_DATA is not set, so nothing here compares with published figures"


REAL_DATA, REAL_DATA_REASON = _find_real_data()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which images the tests used."""
    terminalreporter.write_line(f"images: {REAL_DATA_REASON}")


@pytest.fixture(scope="session")
def real_data() -> str | None:
    """Where real CIFAKE is, or None; tests then use the offline sample. An empty CIFAKE_DATA forces None."""
    return REAL_DATA


@pytest.fixture(scope="session")
def image_source(real_data: str | None, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A value for CIFAKE_DATA that is quick to read: the first 5,000 rows a side of real data; "" for the sample."""
    files = [Path(real_data or "") / f"{side}.parquet" for side in ("train", "test")]
    if not real_data or not all(file.is_file() for file in files):
        return real_data or ""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = tmp_path_factory.mktemp("images")
    for file in files:
        with pq.ParquetFile(file) as whole:
            batch = next(whole.iter_batches(5000))
            pq.write_table(pa.Table.from_batches([batch]), folder / file.name)
    return str(folder)


@pytest.fixture
def make_dataset(image_source: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Manifest]:
    """`make_dataset(store, train_rows=200, test_rows=100, seed=0)`: a manifest, of real images where there are any."""

    def make(store: Store, train_rows: int = 200, test_rows: int = 100, seed: int = 0) -> Manifest:
        from cifake_core.images import assemble

        with monkeypatch.context() as patch:
            patch.setenv("CIFAKE_DATA", image_source)
            settings.cache_clear()
            manifest = assemble.build(store, train_rows=train_rows, test_rows=test_rows, seed=seed)
        settings.cache_clear()
        return manifest

    return make


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty CIFAKE_HOME for each test; stores and databases default to folders in it."""
    folder = tmp_path / "home"
    monkeypatch.setenv("CIFAKE_HOME", str(folder))
    for name in ("CIFAKE_DATA", "CIFAKE_STORE", "MLFLOW_TRACKING_URI"):
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
