"""The loop that closes: a new generator appears, the stack notices, retrains and promotes; then another one does.

python -m benchmarks.closed_loop

On a stack of its own, Airflow and Prometheus included. The pipeline makes a champion of CIFAKE. Its own test images
ask for nothing; then images of the embedded generator are sent, which is none of CIFAKE's. Prometheus reports drift,
the DAG `cifake_monitoring` triggers `cifake_harden` with 128 of them, and the service gets a new champion. After that
`cifake_harden` takes 128 images of a DDPM. Shares taken for REAL are of images held apart.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks import common

UNSEEN = common.CHECKOUT.parent / "shared/data/cross_generator/dev.parquet"
CIFAKE = str(Path(sys.executable).with_name("cifake"))
EXAMPLES = 128  # the DAG's own default
sys.path.insert(0, str(common.CHECKOUT / "scripts"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train-rows", type=int, default=40_000, help="of CIFAKE, both labels")
    parser.add_argument("--test-rows", type=int, default=10_000)
    parser.add_argument("--topology", default="seed")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--held", type=int, default=1000, help="embedded images held apart")
    parser.add_argument("--traffic", type=int, default=1000, help="requests of each kind")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        ports = {name: str(common.free_port()) for name in ("AIRFLOW", "MLFLOW", "SERVICE", "PROMETHEUS")}
        ports |= {name: str(common.free_port()) for name in ("PUSHGATEWAY", "ALERTMANAGER")}
        os.environ |= {f"CIFAKE_{name}_PORT": port for name, port in ports.items()}
        os.environ |= {"CIFAKE_HOME": folder, "CIFAKE_MONITORING": "true", "CIFAKE_SCRAPE_INTERVAL": "5s"}
        os.environ |= {"CIFAKE_DRIFT_WINDOW_SECONDS": "60", "CIFAKE_POLL_SECONDS": "2"}
        os.environ["MLFLOW_TRACKING_URI"] = f"http://127.0.0.1:{ports['MLFLOW']}"
        stack = [sys.executable, str(common.CHECKOUT / "scripts/stack.py")]
        environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
        try:
            subprocess.run([*stack, "up"], check=True, env=environment)
            common.write_result("closed_loop", _measure(options, home))
        finally:
            subprocess.run([*stack, "down"], check=True, env=environment)


def _measure(options: argparse.Namespace, home: Path) -> dict[str, Any]:
    from airflow_rest import Airflow, follow

    conf = {name: getattr(options, name) for name in ("train_rows", "test_rows", "topology", "epochs")}
    pipeline, monitoring, hardening = (Airflow(f"cifake_{name}") for name in ("pipeline", "monitoring", "harden"))
    run = pipeline.trigger(conf)
    follow(pipeline, run)
    first = pipeline.result(run, "train")
    monitoring.call("PATCH", f"/api/v2/dags/{monitoring.dag}", json={"is_paused": False})
    embedded, ddpm = _embedded(home, EXAMPLES + options.held), _ddpm(home)

    known = _send(_tests(options.traffic))
    quiet = _decision(monitoring, {"images": str(embedded), "generator": "embedded"})
    new = _send(_bytes(embedded)[: options.traffic])
    noticed = time.time()
    _wait(lambda: (_score_psi() or 0) > 0.25, 300, "drift")
    noticed = time.time() - noticed
    alarmed = _decision(monitoring, {"images": str(embedded), "generator": "embedded"})
    triggered = time.time()
    run = _latest(hardening)
    follow(hardening, run)
    hardened = hardening.result(run, "report")
    champion = hardening.result(run, "promote")
    _wait(lambda: _served() == champion["champion"], 60, "the new champion")
    closed = time.time() - triggered
    run = hardening.trigger({"images": str(ddpm), "generator": "ddpm"})
    follow(hardening, run)
    second, then = hardening.result(run, "report"), hardening.result(run, "promote")
    compare = {"before": str(champion["champion"]), "after": str(then["version"])}
    dataset = hardening.result(run, "validate")["dataset_version"]
    return {
        "what": f"{EXAMPLES} images of each new generator added; shares taken for REAL, of images held apart",
        "trained first": {**conf, "accuracy": first["metrics"]["accuracy"]},
        "on its own test images": {"called REAL": known, "decision": quiet},
        "on the embedded generator's": {
            "called REAL": new,
            "seconds until Prometheus told": round(noticed, 1),
            "decision": alarmed,
        },
        "from the trigger until served, seconds": round(closed),
        "hardened against embedded": {**hardened, "promoted": champion["promoted"], "reasons": champion["reasons"]},
        "then against ddpm": {**second, "promoted": then["promoted"], "reasons": then["reasons"]},
        "embedded after ddpm": _report(dataset, "embedded", **compare) if champion["promoted"] else None,
        "machine": common.machine("tensorflow-cpu", "onnxruntime", "bentoml"),
    }


def _decision(monitoring: Any, conf: dict[str, str]) -> dict[str, Any]:
    """What a run of `cifake_monitoring` decided, and by which figures."""
    from airflow_rest import follow

    run = monitoring.trigger(conf)
    follow(monitoring, run)
    found = monitoring.result(run, "watch")
    return {name: found[name] for name in ("action", "reasons", "figures")}


def _latest(airflow: Any) -> str:
    """The run that another DAG triggered."""
    runs: list[Any] = []
    _wait(lambda: runs.extend(airflow.call("GET", f"/api/v2/dags/{airflow.dag}/dagRuns")["dag_runs"]) or runs, 60, "it")
    return str(runs[-1]["dag_run_id"])


def _send(files: list[bytes]) -> float:
    """Classify them; the share called REAL."""
    from cifake_core.settings import settings

    with httpx.Client(base_url=settings().service_url, timeout=60, trust_env=False) as client:
        answers = [client.post("/classify", content=data).raise_for_status().json() for data in files]
    return sum(answer["probability_real"] >= answer["threshold"] for answer in answers) / len(files)


def _score_psi() -> float | None:
    from cifake_core.loop.watch import read_figures

    return read_figures()["score_psi"]


def _served() -> int:
    from cifake_core.settings import settings

    answer = httpx.get(f"{settings().service_url}/status", timeout=30, trust_env=False).json()
    return int(answer["model"]["version"])


def _report(dataset: str, generator: str, before: str, after: str) -> dict[str, Any]:
    return _cifake(
        *("harden", "report", "--dataset", dataset, "--generator", generator, "--before", before, "--after", after)
    )


def _cifake(*arguments: str) -> dict[str, Any]:
    done = subprocess.run([CIFAKE, *arguments, "--json"], stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _tests(count: int) -> list[bytes]:
    from cifake_core.images import sources

    return [row["bytes"] for row in sources.resolve().read("test", rows=count)["image"].to_pylist()]


def _embedded(home: Path, count: int) -> Path:
    from cifake_core.images import collection

    url = _cifake("generate", "--generator", "embedded", "--train-rows", "0", "--test-rows", str(count))["rows_url"]
    sides, _ = collection.read(url)
    return _write(home / "embedded.parquet", pa.concat_tables(sides.values()))


def _ddpm(home: Path) -> Path:
    table = pq.read_table(UNSEEN)
    return _write(home / "ddpm.parquet", table.filter(pc.equal(table["generator"], "ddpm")))


def _write(file: Path, table: pa.Table) -> Path:
    pq.write_table(table.select(["image"]), file)
    return file


def _bytes(file: Path) -> list[bytes]:
    return [row["bytes"] for row in pq.read_table(file)["image"].to_pylist()]


def _wait(ready: Callable[[], object], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise SystemExit(f"waited too long for {what}")
        time.sleep(0.5)


if __name__ == "__main__":
    main()
