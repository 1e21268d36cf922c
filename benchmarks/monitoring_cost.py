"""What watching costs: requests a second with and without drift histograms and the verdict log, interleaved in one run.

`python -m benchmarks.monitoring_cost` starts the service twice on the same bundle, with and without a reference
profile, and asks both by turns. Writes benchmarks/results/monitoring_cost.json.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import httpx
import numpy as np

from cifake_core.bundle import FILE, sha256
from cifake_core.images import codec
from cifake_core.registry.artifacts import ModelVersion
from tests.service.conftest import CHECKOUT, SERVE_BIN, Process, free_port, start
from tests.tiny_bundle import write_tiny_bundle

ROUNDS, REQUESTS = 100, 200
RESULT = Path(__file__).parent / "results/monitoring_cost.json"


def serve(folder: Path, reference: np.ndarray | None) -> Process:
    bundle = write_tiny_bundle(folder / "bundle", reference=reference)
    cache = folder / "cache/models"
    cache.mkdir(parents=True)
    name = sha256(bundle / FILE)
    bundle.rename(cache / name)
    version = ModelVersion(name="cifake-detector", version=1, run_id="r", dataset_version="0" * 16)
    (cache / "last-good.json").write_text(json.dumps({"version": version.model_dump(mode="json"), "folder": name}))
    port = free_port()
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("CIFAKE_", "MLFLOW_TRACKING"))}
    given = {
        "CIFAKE_HOME": str(folder),
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "CIFAKE_POLL_SECONDS": "3600",
        "BENTOML_DO_NOT_TRACK": "true",
        "BENTOML_HOME": str(folder / "bentoml"),
    }
    command = [str(SERVE_BIN / "cifake"), "serve", "--port", str(port)]
    return start(command, f"http://127.0.0.1:{port}", folder / "log", {**clean, **given}, "/readyz", 300)


def rate(client: httpx.Client, image: bytes) -> float:
    begun = time.perf_counter()
    for _ in range(REQUESTS):
        assert client.post("/classify", content=image).status_code == 200
    return REQUESTS / (time.perf_counter() - begun)


def cpu_seconds(service: Process) -> float:
    """What a service and its workers have used so far: unlike a rate it hardly depends on what else runs."""
    import psutil

    leader = psutil.Process(service.popen.pid)
    times = [each.cpu_times() for each in (leader, *leader.children(recursive=True))]
    return sum(each.user + each.system for each in times)


def main() -> None:
    images = np.random.default_rng(0).integers(0, 256, (1000, 32, 32, 3), np.uint8)
    with tempfile.TemporaryDirectory() as scratch:
        folders = [Path(scratch) / name for name in ("with", "without")]
        for each in folders:
            each.mkdir()
        services = [serve(folders[0], images), serve(folders[1], None)]
        try:
            clients = [httpx.Client(base_url=each.url, timeout=60, trust_env=False) for each in services]
            image = codec.encode(images[0])
            for client in clients:
                rate(client, image)
            before, found = [cpu_seconds(each) for each in services], []
            for number in range(ROUNDS):  # each of the two first in every other round
                turn = {each: rate(clients[each], image) for each in ((0, 1), (1, 0))[number % 2]}
                found.append((turn[0], turn[1]))
            time.sleep(2)  # what is measured a moment later counts too
            used = [cpu_seconds(each) - so_far for each, so_far in zip(services, before, strict=True)]
        finally:
            for each in services:
                each.stop()
    ratios = [with_ / without for with_, without in found]
    drawn = np.random.default_rng(0).choice(ratios, (10_000, ROUNDS))
    low, high = np.quantile(np.median(drawn, axis=1), (0.025, 0.975))
    result = {
        "rounds": ROUNDS,
        "requests_each": REQUESTS,
        "requests_per_second_with_drift": round(statistics.median(w for w, _ in found), 1),
        "requests_per_second_without": round(statistics.median(w for _, w in found), 1),
        "median_ratio": round(statistics.median(ratios), 4),
        "median_ratio_95": [round(float(low), 4), round(float(high), 4)],
        "ratio_quartiles": [round(q, 4) for q in statistics.quantiles(ratios, n=4)],
        "cpu_ms_per_request_with_drift": round(1000 * used[0] / ROUNDS / REQUESTS, 4),
        "cpu_ms_per_request_without": round(1000 * used[1] / ROUNDS / REQUESTS, 4),
        "load_average": os.getloadavg()[0],
        "commit": subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=CHECKOUT, capture_output=True, text=True
        ).stdout.strip(),
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
