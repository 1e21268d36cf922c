"""The loop that closes: a new generator appears, the stack notices, retrains and promotes; then another one does.

python -m benchmarks.closed_loop

On a stack of its own, Airflow and Prometheus included. The pipeline makes a champion of CIFAKE. Then twice: its own
test images ask for nothing; images of a generator that it never saw are sent, Prometheus reports drift, the DAG
`cifake_monitoring` triggers `cifake_harden` with 128 of them, and the service gets a new champion. The first generator
is the embedded one, the second a GAN that is trained here for the purpose; with `--ddpm`, `cifake_harden` takes 128
images of a DDPM at last. Shares taken for REAL are of images held apart.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
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
    parser.add_argument("--topology", default="house-xs")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--second", default="lsgan-8", help="the second new generator, trained here")
    parser.add_argument("--second-steps", type=int, default=500, help="0: CIFAKE_GENERATOR_WEIGHTS has it")
    parser.add_argument("--held", type=int, default=900, help="images of each new generator held apart")
    parser.add_argument("--ddpm", action="store_true", help="a third one, its tiles beside the checkout")
    parser.add_argument("--traffic", type=int, default=1000, help="requests of each kind")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the stack below is stopped too
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        ports = {name: str(common.free_port()) for name in ("AIRFLOW", "MLFLOW", "SERVICE", "PROMETHEUS")}
        ports |= {name: str(common.free_port()) for name in ("PUSHGATEWAY", "ALERTMANAGER")}
        os.environ |= {f"CIFAKE_{name}_PORT": port for name, port in ports.items()}
        os.environ |= {"CIFAKE_HOME": folder, "CIFAKE_MONITORING": "true", "CIFAKE_SCRAPE_INTERVAL": "5s"}
        os.environ |= {"CIFAKE_DRIFT_WINDOW_SECONDS": "60", "CIFAKE_POLL_SECONDS": "2"}
        os.environ |= {"CIFAKE_WATCH_POLICY": str(_impatient(home))}
        environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
        os.environ["MLFLOW_TRACKING_URI"] = f"http://127.0.0.1:{ports['MLFLOW']}"
        if options.second_steps:
            _cifake("generate", "train", "--generator", options.second, "--steps", str(options.second_steps))
        drawn = {name: _draw(home, name, EXAMPLES + options.held) for name in ("embedded", options.second)}
        stack = [sys.executable, str(common.CHECKOUT / "scripts/stack.py")]
        try:
            subprocess.run([*stack, "up"], check=True, env=environment)
            common.write_result("closed_loop", _measure(options, drawn, _ddpm(home) if options.ddpm else None))
        finally:
            subprocess.run([*stack, "down"], check=True, env=environment)


def _measure(options: argparse.Namespace, drawn: dict[str, Path], ddpm: Path | None) -> dict[str, Any]:
    from airflow_rest import Airflow, follow

    from cifake_core.generation import trained as trained_weights

    conf = {name: getattr(options, name) for name in ("train_rows", "test_rows", "topology", "epochs")}
    pipeline, monitoring, hardening = (Airflow(f"cifake_{name}") for name in ("pipeline", "monitoring", "harden"))
    run = pipeline.trigger(conf)
    follow(pipeline, run)
    trained, base = pipeline.result(run, "train"), pipeline.result(run, "validate")["dataset_version"]
    monitoring.call("PATCH", f"/api/v2/dags/{monitoring.dag}", json={"is_paused": False})
    versions, rounds, last = {"before": trained["model_version"]}, {}, base
    for name, file in drawn.items():
        rounds[name], versions[f"after {name}"], last = _close(monitoring, hardening, name, file, options.traffic)
    table = _table(versions, base, last, list(drawn))
    return {
        "what": f"{EXAMPLES} images of each new generator added; shares taken for REAL, of images held apart",
        "trained first": {**conf, "accuracy": trained["metrics"]["accuracy"]},
        "second generator": {
            "name": options.second,
            "weights": trained_weights.revision(options.second),
            "steps trained here": options.second_steps,
        },
        "rounds": rounds,
        "table": table,
        "then against ddpm, not learned": _third(hardening, ddpm) if ddpm else None,
        "machine": common.machine("tensorflow-cpu", "onnxruntime", "bentoml"),
    }


def _close(monitoring: Any, hardening: Any, name: str, file: Path, traffic: int) -> tuple[dict[str, Any], int, str]:
    """Known traffic, then a new generator's, until its champion is served; what was seen, the version, its dataset."""
    from airflow_rest import follow

    conf, before = {"images": str(file), "generator": name}, _runs(hardening)
    known = _send(_tests(traffic))
    quiet = _decision(monitoring, conf)
    new = _send(_bytes(file)[:traffic])
    sent = time.time()
    _wait(_drifted, 300, "drift")
    told = time.time() - sent
    alarmed = _decision(monitoring, conf)
    triggered = time.time()
    (run,) = _runs(hardening) - before
    follow(hardening, run)
    decided = hardening.result(run, "promote")
    _wait(lambda: _served() == decided["champion"], 60, "the new champion")
    seen = {
        "on the champion's own test images": {"called REAL": known, "decision": quiet},
        "on the new generator's": {
            "called REAL": new,
            "seconds until Prometheus told": round(told, 1),
            "decision": alarmed,
        },
        "from the trigger until served, seconds": round(time.time() - triggered),
        "hardened": hardening.result(run, "report"),
        "promoted": decided["promoted"],
        "reasons": decided["reasons"],
    }
    return seen, decided["champion"], hardening.result(run, "validate")["dataset_version"]


def _third(hardening: Any, ddpm: Path) -> dict[str, Any]:
    """A generator that so small a network does not learn from so few images."""
    from airflow_rest import follow

    run = hardening.trigger({"images": str(ddpm), "generator": "ddpm"})
    follow(hardening, run)
    decided = hardening.result(run, "promote")
    return {**hardening.result(run, "report"), "promoted": decided["promoted"], "reasons": decided["reasons"]}


def _table(versions: dict[str, int], base: str, last: str, names: list[str]) -> dict[str, Any]:
    """Each version on the first dataset version's test images, and on each new generator's images held apart."""
    from cifake_core.bundle import Detector
    from cifake_core.images import dataset
    from cifake_core.loop.harden import passed
    from cifake_core.monitoring.intervals import wilson
    from cifake_core.registry.artifacts import fetch, resolve
    from cifake_core.storage import Store

    store = Store()
    old, labels = dataset.arrays(store, dataset.load(store, base), "test")
    manifest = dataset.load(store, last)
    images, _ = dataset.arrays(store, manifest, "test")
    generators = np.array(dataset.read(store, manifest, "test")["generator"].to_pylist(), dtype=object)
    found: dict[str, Any] = {}
    taken: list[np.ndarray] = []  # of the first generator, by version
    for stage, version in versions.items():
        detector = Detector(fetch(resolve(str(version))))
        right = (detector.probability_real(old) >= detector.info.threshold) == labels
        lower, upper = wilson(int(right.sum()), len(right))
        held = {name: images[generators == name] for name in names}
        taken.append(detector.probability_real(held[names[0]]) >= detector.info.threshold)
        found[stage] = {
            "model_version": version,
            "old test images": {"images": len(old), "accuracy": float(right.mean()), "lower": lower, "upper": upper},
            **{name: passed(version, detector, held[name]).model_dump() for name in names},
        }
    forgotten, found_since = (taken[-1] & ~taken[-2]).sum(), (taken[-2] & ~taken[-1]).sum()
    found[f"{names[0]} after {names[1]}"] = {"forgotten": int(forgotten), "found since": int(found_since)}
    return found


def _impatient(home: Path) -> Path:
    """The policy without its cool-down, since here the second generator comes minutes after the first."""
    import yaml

    from cifake_core.loop.watch import POLICY

    file = home / "policy.yaml"
    file.write_text(yaml.safe_dump({**yaml.safe_load(POLICY.read_text()), "cool_down_hours": 0}))
    return file


def _decision(monitoring: Any, conf: dict[str, str]) -> dict[str, Any]:
    """What a run of `cifake_monitoring` decided, and by which figures."""
    from airflow_rest import follow

    run = monitoring.trigger(conf)
    follow(monitoring, run)
    found = monitoring.result(run, "watch")
    return {name: found[name] for name in ("action", "reasons", "figures")}


def _runs(airflow: Any) -> set[str]:
    """All runs of a DAG."""
    return {run["dag_run_id"] for run in airflow.call("GET", f"/api/v2/dags/{airflow.dag}/dagRuns")["dag_runs"]}


def _send(files: list[bytes]) -> float:
    """Classify them; the share called REAL."""
    from cifake_core.settings import settings

    with httpx.Client(base_url=settings().service_url, timeout=60, trust_env=False) as client:
        answers = [client.post("/classify", content=data).raise_for_status().json() for data in files]
    return sum(answer["probability_real"] >= answer["threshold"] for answer in answers) / len(files)


def _drifted() -> bool:
    from cifake_core.loop.watch import load_policy, read_figures

    figures, policy = read_figures(), load_policy()
    return any((figures[name] or 0) > getattr(policy, name) for name in ("score_psi", "feature_psi"))


def _served() -> int:
    from cifake_core.settings import settings

    answer = httpx.get(f"{settings().service_url}/status", timeout=30, trust_env=False).json()
    return int(answer["model"]["version"])


def _cifake(*arguments: str) -> dict[str, Any]:
    done = subprocess.run([CIFAKE, *arguments, "--json"], stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _tests(count: int) -> list[bytes]:
    from cifake_core.images import sources

    return [row["bytes"] for row in sources.resolve().read("test", rows=count)["image"].to_pylist()]


def _draw(home: Path, generator: str, count: int) -> Path:
    from cifake_core.images import collection

    url = _cifake("generate", "--generator", generator, "--train-rows", "0", "--test-rows", str(count))["rows_url"]
    sides, _ = collection.read(url)
    return _write(home / f"{generator}.parquet", pa.concat_tables(sides.values()))


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
