"""Fixtures every room's tests share. A room's own fixtures live in that room's conftest."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
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
