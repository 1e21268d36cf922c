"""Fixtures every room's tests share. A room's own fixtures live in that room's conftest."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    from cifake_core.training.export import export
    from cifake_core.training.fit import Arrays, fit
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
    import signal

    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (256 * 1024, before[1]))
    yield folder
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@dataclass(frozen=True)
class S3:
    """A running S3 server: its endpoint and the environment that reaches it; `bucket` exists."""

    endpoint: str
    environment: dict[str, str]
    bucket: str = "cifake"


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """A SeaweedFS S3 server on free loopback ports, for the session."""
    folder = tmp_path_factory.mktemp("seaweedfs")
    (folder / "data").mkdir()
    key, secret = "test-key", "test-secret"
    identity = {"name": "test", "credentials": [{"accessKey": key, "secretKey": secret}], "actions": ["Admin"]}
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    names = [f"{part}.port{kind}" for part in ("master", "volume", "filer", "s3") for kind in ("", ".grpc")]
    ports = dict(zip(names, _free_ports(len(names)), strict=True))
    command = [
        str(Path(sys.executable).with_name("weed")),
        "server",
        "-ip=127.0.0.1",
        f"-dir={folder / 'data'}",
        "-master.telemetry=false",
        "-volume.max=20",
        "-master.volumeSizeLimitMB=64",
        "-s3",
        "-s3.iam=false",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        f"-s3.config={folder / 's3.json'}",
        f"-filer.localSocket={folder / 'filer.sock'}",
        *(f"-{name}={port}" for name, port in ports.items()),
    ]
    endpoint = f"http://127.0.0.1:{ports['s3.port']}"
    environment = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
        try:
            _make_bucket(environment, server, folder / "log")
            yield S3(endpoint, environment)
        finally:
            server.kill()  # a polite stop drains for 25 seconds
            server.wait(30)
            for port in ports.values():
                for left in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                    left.unlink()


def _make_bucket(environment: dict[str, str], server: subprocess.Popen[bytes], log: Path) -> None:
    import boto3

    client = boto3.client(
        "s3",
        endpoint_url=environment["AWS_ENDPOINT_URL"],
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        region_name=environment["AWS_DEFAULT_REGION"],
    )
    deadline = time.monotonic() + 60
    while True:
        try:
            client.create_bucket(Bucket=S3.bucket)
            client.put_object(Bucket=S3.bucket, Key="ready", Body=b"1")
            client.delete_object(Bucket=S3.bucket, Key="ready")
            return
        except Exception:
            if server.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"SeaweedFS did not start:\n{log.read_text()[-2000:]}")
            threading.Event().wait(0.2)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


@dataclass
class MlflowServer:
    """A running MLflow server whose artefacts this machine reads directly, as `make up` runs it."""

    url: str
    folder: Path
    process: subprocess.Popen[bytes]

    @classmethod
    def start(cls, folder: Path, port: int | None = None) -> MlflowServer:
        """Start one on the database and artefacts in `folder` (made when empty); returns when it answers."""
        port = port or _free_ports(1)[0]
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--no-serve-artifacts"]
        command += ["--default-artifact-root", (folder / "artifacts").as_uri()]
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (folder / "server.log").open("ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
        server = cls(f"http://127.0.0.1:{port}", folder, process)
        deadline = time.monotonic() + 180
        while not server.answers():
            if process.poll() is not None or time.monotonic() > deadline:
                server.stop()
                pytest.fail(f"MLflow did not start:\n{(folder / 'server.log').read_text()[-2000:]}")
            threading.Event().wait(0.1)
        return server

    def answers(self) -> bool:
        """Is it up?"""
        import requests

        try:
            return requests.get(f"{self.url}/health", timeout=5).ok
        except requests.RequestException:
            return False

    def stop(self) -> None:
        """End it and its workers, at once."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(30)

    def clear(self) -> None:
        """Forget all model versions; the next one is version 1 again."""
        from mlflow import MlflowClient

        api = MlflowClient(self.url)
        for model in api.search_registered_models():
            api.delete_registered_model(model.name)

    def register(self, bundle: Path, **tags: str) -> int:
        """Put a bundle where a training run would, as a new version of the detector; returns its number.

        Tags are as training sets them; a keyword replaces one.
        """
        from mlflow import MlflowClient

        from cifake_core.bundle import BundleInfo, sha256
        from cifake_core.settings import EXPERIMENT, MODEL_NAME

        api = MlflowClient(self.url)
        found = api.get_experiment_by_name(EXPERIMENT)
        experiment = found.experiment_id if found else api.create_experiment(EXPERIMENT)
        info = BundleInfo.model_validate_json((bundle / "detector.json").read_text())
        run = api.create_run(experiment, tags={"dataset_version": info.dataset_version}).info.run_id
        api.log_artifacts(run, str(bundle), "detector")
        api.set_terminated(run)
        if not api.search_registered_models(f"name='{MODEL_NAME}'"):
            api.create_registered_model(MODEL_NAME)
        recorded = {
            "dataset_version": info.dataset_version,
            "topology": info.topology,
            "bundle_sha256": sha256(bundle / "detector.json"),
        }
        made = api.create_model_version(MODEL_NAME, f"runs:/{run}/detector", run, tags={**recorded, **tags})
        return int(made.version)


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory, mlflow_database: Path) -> Iterator[MlflowServer]:
    """An MLflow server for the session. A test that counts versions calls `clear` first."""
    folder = tmp_path_factory.mktemp("mlflow")
    shutil.copy(mlflow_database, folder)
    server = MlflowServer.start(folder)
    yield server
    server.stop()
