"""Fixtures every room's tests share. A room's own fixtures live in that room's conftest."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from cifake_core.settings import settings
from cifake_core.storage import Store
from tests.servers import S3, MlflowServer, seaweedfs

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


LONGEST = ("integration", "registry", "service", "dags", "training", "generation", "faults")  # begun first
# Files that need the same thing which takes many seconds of a processor to make: an MLflow server, a service, a trained
# model, a process with torch, Great Expectations. One process runs them all.
TOGETHER = {
    "registry": ("tests/registry/", "tests/faults/test_kill_promote.py", "tests/faults/test_promotion_faults.py"),
    "service": ("tests/service/",),
    "training": ("tests/training/", "tests/faults/test_kill_train.py", "tests/monitoring/test_drift_drill.py"),
    "torch": tuple(f"tests/generation/test_{name}" for name in ("stable_diff", "torch_env", "training", "zoo")),
    "dags": tuple(f"tests/dags/test_{name}" for name in ("pipeline", "registry_dags", "dataset_dag")),
    "validation": ("tests/validation/",),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest, so that no process ends with it alone."""
    items.sort(key=lambda item: LONGEST.index(room) if (room := item.path.parent.name) in LONGEST else len(LONGEST))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """`--dist loadfile`, but that the files of TOGETHER are as one file."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return next((name for name, files in TOGETHER.items() if file.startswith(files)), file)

    return Scheduling(config, log) if config.getvalue("dist") == "loadfile" else None


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


@pytest.fixture(scope="session")
def make_dataset(image_source: str) -> Callable[..., Manifest]:
    """`make_dataset(store, train_rows=200, test_rows=100, seed=0)`: a manifest, of real images where there are any."""

    def make(store: Store, train_rows: int = 200, test_rows: int = 100, seed: int = 0) -> Manifest:
        from cifake_core.images import assemble

        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("CIFAKE_DATA", image_source)
            settings.cache_clear()
            manifest = assemble.build(store, train_rows=train_rows, test_rows=test_rows, seed=seed)
        settings.cache_clear()
        return manifest

    return make


@pytest.fixture(scope="session")
def trained_bundle(make_dataset: Callable[..., Manifest], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model bundle as training makes it, in seconds: `bird-lotfi` on 400 images. `model.keras` lies beside it."""
    return _once(tmp_path_factory, "trained", partial(_train, make_dataset)) / "detector"


def _train(make_dataset: Callable[..., Manifest], folder: Path) -> None:
    from cifake_core.images import dataset
    from cifake_core.training.epochs import Arrays
    from cifake_core.training.export import export
    from cifake_core.training.fit import fit
    from cifake_core.training.options import Options

    options = Options(topology="bird-lotfi", epochs=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CIFAKE_HOME", str(folder))
        settings.cache_clear()
        store = Store((folder / "store").as_uri())
        manifest = make_dataset(store, train_rows=400)
        train, test = (Arrays(*dataset.arrays(store, manifest, split)) for split in ("train", "test"))
    settings.cache_clear()
    model = fit(options, train).model
    named = {"topology": options.topology, "dataset_version": manifest.version, "seed": options.seed}
    export(model, folder / "detector", test.images, **named)
    model.save(folder / "model.keras")


@pytest.fixture(scope="session")
def airflow_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database of Airflow: its migrations take seconds. Copy it."""
    from tests import airflow_runs

    return _once(tmp_path_factory, "airflow", airflow_runs.migrate) / "airflow.db"


@pytest.fixture(scope="session")
def mlflow_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of MLflow with its tables and nothing in them: migrations take two seconds. Copy it."""
    return _once(tmp_path_factory, "mlflow-tables", _migrate_mlflow) / "mlflow.db"


def _migrate_mlflow(folder: Path) -> None:
    from mlflow.store.db import utils

    engine = utils.create_sqlalchemy_engine(f"sqlite:///{folder}/mlflow.db")
    with warnings.catch_warnings(action="ignore"):  # SQLAlchemy on MLflow's classes
        utils._initialize_tables(engine)
    engine.dispose()


def _once(tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that `make` fills, once for all processes of this run."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    with (root / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (root / name).exists():
            (root / f"{name}-making").mkdir(exist_ok=True)
            make(root / f"{name}-making")
            (root / f"{name}-making").rename(root / name)
    return root / name


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
def migrated(home: Path, mlflow_database: Path) -> None:
    """In this test's CIFAKE_HOME, the database that MLflow would make at first use."""
    home.mkdir()
    shutil.copy(mlflow_database, home)


@pytest.fixture
def store(home: Path) -> Store:
    """The default store of this test's CIFAKE_HOME."""
    return Store()


@pytest.fixture
def rng() -> np.random.Generator:
    """A seeded generator of random numbers."""
    return np.random.default_rng(0)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB; where mounting is not allowed, a limit on the size of files stands in for it."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = [shutil.which("mount") or "false", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder]
    if subprocess.run(mount, capture_output=True).returncode == 0:
        yield folder
        subprocess.run(["umount", folder], check=True)
        return
    import resource

    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (256 * 1024, before[1]))
    yield folder
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """A SeaweedFS S3 server on free loopback ports, for the session."""
    with seaweedfs(tmp_path_factory.mktemp("seaweedfs")) as server:
        yield server


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory, mlflow_database: Path) -> Iterator[MlflowServer]:
    """An MLflow server for the session. A test that counts versions calls `clear` first."""
    folder = tmp_path_factory.mktemp("mlflow")
    shutil.copy(mlflow_database, folder)
    server = MlflowServer.start(folder)
    yield server
    server.stop()
