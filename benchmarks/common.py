"""What benchmarks share: real images, a model, a service of it, the machine they ran on."""

from __future__ import annotations

import json
import os
import platform
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

CHECKOUT = Path(__file__).resolve().parents[1]
RESULTS = CHECKOUT / "benchmarks/results"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("BENTOML_DO_NOT_TRACK", "true")
BESIDE = CHECKOUT.parent / "shared/data/cifake"
if BESIDE.is_dir():
    os.environ.setdefault("CIFAKE_DATA", str(BESIDE))


def images(count: int) -> tuple[list[bytes], np.ndarray]:
    """Test images as files, and their pixels (N, 32, 32, 3) uint8; real CIFAKE when CIFAKE_DATA has it."""
    from cifake_core.images import codec, sources

    table = sources.resolve().read("test", rows=count)
    chosen = np.random.default_rng(0).permutation(table.num_rows)[:count]
    files = [row["bytes"] for row in table.take(chosen)["image"].to_pylist()]
    normalised = [codec.normalise(data) for data in files]
    return [each.jpeg for each in normalised], np.stack([each.pixels for each in normalised])


def keras_model(topology: str) -> Any:
    """An untrained model with seeded weights: its speed is a trained one's."""
    import keras

    from cifake_core.training import topologies

    keras.utils.set_random_seed(0)
    return topologies.build(topology)


def make_home(folder: Path, model: Any, topology: str, pixels: np.ndarray) -> Path:
    """A CIFAKE_HOME in `folder` that remembers the model as its last good champion; returns the bundle.

    A service started there serves it without a registry, as it does when MLflow is down.
    """
    from cifake_core import bundle
    from cifake_core.registry.artifacts import ModelVersion
    from cifake_core.training.export import export

    models = folder / "cache/models"
    export(model, models / "new", pixels[:32], topology=topology, dataset_version="benchmark")
    kept = (models / "new").rename(models / bundle.sha256(models / "new" / bundle.FILE))
    version = ModelVersion(name="cifake-detector", version=1, run_id="", dataset_version="benchmark")
    (models / "last-good.json").write_text(json.dumps({"version": version.model_dump(), "folder": kept.name}))
    return kept


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(command: list[str], port: int, ready: str, log: Path, **environment: str) -> Iterator[subprocess.Popen]:
    """A server process of ours, ready; `process.ready_seconds` says how long that took. Stopped at the end."""
    import httpx

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server below is stopped too
    start = time.perf_counter()
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("CIFAKE_", "MLFLOW_TRACKING"))}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env={**clean, **environment}, cwd=CHECKOUT, start_new_session=True
        )
    try:
        while True:
            try:
                if httpx.get(f"http://127.0.0.1:{port}{ready}", timeout=1, trust_env=False).status_code == 200:
                    break
            except httpx.HTTPError:
                pass
            if process.poll() is not None or time.perf_counter() - start > 300:
                raise SystemExit(f"{command} did not start:\n{log.read_text()[-2000:]}")
            time.sleep(0.02)
        process.ready_seconds = time.perf_counter() - start  # type: ignore[attr-defined]
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(5)


@contextmanager
def detector_service(home: Path, **environment: str) -> Iterator[tuple[subprocess.Popen, int]]:
    """The service of a home's champion, from the serving environment when there is one; its process and port."""
    serve = CHECKOUT / ".venv-serve/bin/cifake"
    port = free_port()
    command = [str(serve if serve.exists() else Path(sys.executable).with_name("cifake")), "serve", "--port", str(port)]
    where = {
        "CIFAKE_HOME": str(home),
        "CIFAKE_POLL_SECONDS": "3600",
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    }
    with running(command, port, "/readyz", home / f"service-{port}.log", **where | environment) as process:
        yield process, port


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """p50, p99 and mean in milliseconds."""
    ms = np.asarray(seconds) * 1000
    return {
        "p50_ms": round(float(np.percentile(ms, 50)), 3),
        "p99_ms": round(float(np.percentile(ms, 99)), 3),
        "mean_ms": round(float(ms.mean()), 3),
        "n": len(ms),
    }


def machine(*packages: str) -> dict[str, Any]:
    """What this ran on. The load average says how busy the machine was with other work."""
    cpu = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        cpu = next((x.split(":")[1].strip() for x in info.read_text().splitlines() if x.startswith("model name")), cpu)
    found = {}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "load_average": [round(x, 1) for x in os.getloadavg()],
        "python": platform.python_version(),
        **found,
    }


def kept(name: str, asked: dict[str, Any]) -> dict[str, Any]:
    """The result that is kept, to go on from, if it is of what is asked; else nothing."""
    file = RESULTS / f"{name}.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    return found if asked.items() <= found.items() else {}


def write_result(name: str, result: dict[str, Any]) -> None:
    """Keep the result under benchmarks/results and print it."""
    text = json.dumps(result, indent=2)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(text + "\n")
    print(text)
