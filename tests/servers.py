"""Servers that tests start on free loopback ports, and stop: an S3 store, MLflow."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

Answer = Callable[[str], tuple[int, dict[str, str], bytes]]  # path and query → status, headers, body


@contextmanager
def answering(answer: Answer) -> Iterator[str]:
    """The address of a server that gives a test's own answers to GET."""

    class Api(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, body = answer(self.path)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Api)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


@dataclass(frozen=True)
class S3:
    """A running S3 server: its endpoint and the environment that reaches it; `bucket` exists."""

    endpoint: str
    environment: dict[str, str]
    bucket: str = "cifake"


@contextmanager
def seaweedfs(folder: Path) -> Iterator[S3]:
    """A SeaweedFS server that keeps its files in an empty folder."""
    (folder / "data").mkdir()
    key, secret = "test-key", "test-secret"
    identity = {"name": "test", "credentials": [{"accessKey": key, "secretKey": secret}], "actions": ["Admin"]}
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    names = [f"{part}.port{kind}" for part in ("master", "volume", "filer", "s3") for kind in ("", ".grpc")]
    ports = dict(zip(names, free_ports(len(names)), strict=True))
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


@dataclass
class MlflowServer:
    """A running MLflow server whose artefacts this machine reads directly, as `make up` runs it."""

    url: str
    folder: Path
    process: subprocess.Popen[bytes]

    @classmethod
    def start(cls, folder: Path, port: int | None = None) -> MlflowServer:
        """Start one on the database and artefacts in `folder` (made when empty); returns when it answers."""
        port = port or free_ports(1)[0]
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
