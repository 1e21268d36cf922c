"""A real MLflow server with tiny registered models, and real services beside it; all stopped by pid."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import numpy as np
import pytest
from cryptography.fernet import Fernet
from PIL import Image

from tests.servers import MlflowServer
from tests.tiny_bundle import write_tiny_bundle
from tests.waiting import wait_for

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHECKOUT = Path(__file__).resolve().parents[2]
# The serving environment has no TensorFlow; without it, this one does.
SERVE_BIN = next((p for p in [CHECKOUT / ".venv-serve/bin"] if (p / "cifake").exists()), Path(sys.executable).parent)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Process:
    """A server of ours: its process group leader, its log, where it answers."""

    popen: subprocess.Popen[bytes]
    log: Path
    url: str

    def stop(self) -> None:
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGTERM)
            try:
                self.popen.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(self.popen.pid, signal.SIGKILL)
                self.popen.wait(5)

    def loaded(self) -> int:
        """Workers that have had a model: until a new one has, it says 503, or another answers in its place."""
        return self.log.read_text().count("(was None)")

    def get(self, path: str, **arguments: object) -> httpx.Response:
        return httpx.get(self.url + path, timeout=30, trust_env=False, **arguments)

    def post(self, path: str, **arguments: object) -> httpx.Response:
        return httpx.post(self.url + path, timeout=30, trust_env=False, **arguments)


def start(command: list[str], url: str, log: Path, env: dict[str, str], ready: str, seconds: float = 90) -> Process:
    with log.open("wb") as output:
        popen = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=env, cwd=CHECKOUT, start_new_session=True
        )
    process = Process(popen, log, url)

    def is_ready() -> bool:
        assert popen.poll() is None, log.read_text()[-2000:]
        return process.get(ready).status_code == 200

    try:
        wait_for(is_ready, seconds)
    except BaseException:
        process.stop()
        print(log.read_text()[-4000:])
        raise
    return process


def metric(service: Process, name: str) -> float | None:
    """The value of one series, named with its labels as the service writes it."""
    lines = (line.rpartition(" ") for line in service.get("/metrics").text.splitlines())
    return next((float(value) for series, _, value in lines if series == name), None)


@dataclass
class Registry:
    """A running MLflow server, and what a training run would have put there."""

    server: MlflowServer
    folder: Path

    @property
    def api(self) -> MlflowClient:
        """A client of the server."""
        from mlflow import MlflowClient

        return MlflowClient(self.server.url)

    def register(self, seed: int, damage: str = "", **tags: str) -> int:
        """Register the tiny bundle of a seed; returns its version. `damage` names an artefact to spoil afterwards."""
        bundle = write_tiny_bundle(self.folder / str(seed), seed, f"{seed:016x}")
        version = self.server.register(bundle, **tags)
        if damage:
            run = self.api.get_model_version("cifake-detector", str(version)).run_id
            (artefact,) = self.server.folder.glob(f"artifacts/*/{run}/artifacts/detector/{damage}")
            artefact.write_bytes(b"not what it was")
        return version

    def promote(self, version: int) -> None:
        self.api.set_registered_model_alias("cifake-detector", "champion", str(version))


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory, mlflow_database: Path) -> Iterator[Registry]:
    """MLflow, which may call services on this machine, with one champion: version 1, the tiny bundle of seed 0."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_WEBHOOK_ALLOWED_SCHEMES", "http,https")
        patch.setenv("MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS", "true")
        patch.setenv("MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY", Fernet.generate_key().decode())
        patch.setenv("MLFLOW_WEBHOOK_CACHE_TTL", "1")  # seconds until a new webhook is called
        folder = tmp_path_factory.mktemp("mlflow")
        shutil.copy(mlflow_database, folder)
        server = MlflowServer.start(folder)
    made = Registry(server, tmp_path_factory.mktemp("bundles"))
    try:
        made.promote(made.register(0, decision="promoted"))
        yield made
    finally:
        made.server.stop()


@pytest.fixture(scope="session")
def start_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Process]]:
    """`start_service(tracking_uri, home=None, ready="/readyz", **env)`: a service of its own; stopped at the end."""
    running: list[Process] = []

    def make(tracking_uri: str, home: Path | None = None, ready: str = "/readyz", **env: str) -> Process:
        home = home or tmp_path_factory.mktemp("service-home")
        port = free_port()
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("CIFAKE_", "MLFLOW_TRACKING"))}
        settings = {
            "CIFAKE_HOME": str(home),
            "MLFLOW_TRACKING_URI": tracking_uri,
            "CIFAKE_POLL_SECONDS": "0.3",
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        }
        command = [str(SERVE_BIN / "cifake"), "serve", "--port", str(port)]
        process = start(command, f"http://127.0.0.1:{port}", home / "service.log", {**clean, **settings, **env}, ready)
        running.append(process)
        return process

    yield make
    for process in running:
        process.stop()


@pytest.fixture(scope="session")
def service(registry: Registry, start_service: Callable[..., Process]) -> Process:
    """A service of the champion that all tests share; no test changes what it serves."""
    return start_service(registry.server.url, CIFAKE_POLL_SECONDS="3600")


@pytest.fixture(scope="session")
def two_workers(registry: Registry, start_service: Callable[..., Process]) -> Process:
    """A service of two workers that follows the alias; whoever moves that moves it back to version 1."""
    service = start_service(registry.server.url, CIFAKE_SERVICE_WORKERS="2", CIFAKE_SERVICE_QUEUE="256")
    wait_for(lambda: service.loaded() == 2)
    return service


@pytest.fixture(scope="session")
def photo() -> bytes:
    """A 48×64 PNG with structure in it."""
    y, x = np.mgrid[:48, :64]
    pixels = np.stack([x * 4, y * 5, (x + y) * 2], -1).astype(np.uint8)
    return encoded(pixels, "PNG")


def encoded(pixels: np.ndarray, form: str, **options: object) -> bytes:
    import io

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, **options)
    return buffer.getvalue()
