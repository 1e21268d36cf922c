"""The paper's networks on all training images: test figures per label, time per epoch, peak memory.

python -m benchmarks.paper_topologies

Each network is trained by `cifake train` in a process of its own, five epochs at 32×32. Real CIFAKE lies beside the
checkout or where CIFAKE_DATA says; killed, the command continues after the last whole epoch.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks import common

CIFAKE = str(Path(sys.executable).with_name("cifake"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--topologies", nargs="+", default=["seed", "bird-lotfi"])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train-rows", type=int, help="all by default")
    parser.add_argument("--home", type=Path, default=common.CHECKOUT / ".cifake/benchmarks/paper_topologies")
    options = parser.parse_args()
    os.environ["CIFAKE_HOME"] = str(options.home.absolute())
    build = ["data", "build", "--validation-fraction", "0"]
    manifest, _ = cifake(*build, *(["--train-rows", str(options.train_rows)] if options.train_rows else []))
    version = manifest["dataset_version"]
    found = {name: _train(name, version, options) for name in options.topologies}
    common.write_result(
        "paper_topologies",
        {
            "what": f"`cifake train`, {options.epochs} epochs at 32×32, seed {options.seed}, Adam 0.001, batches of 32",
            "dataset_version": version,
            "rows": {split: sum(labels.values()) for split, labels in manifest["counts"].items()},
            "topologies": found,
            "machine": common.machine("tensorflow-cpu", "keras"),
        },
    )


def _train(topology: str, version: str, options: argparse.Namespace) -> dict[str, Any]:
    from cifake_core.mlflow_client import client

    asked = ["--topology", topology, "--epochs", str(options.epochs), "--seed", str(options.seed)]
    trained, memory = cifake("train", "--dataset", version, *asked)
    run = trained["run_id"]
    report, history = (
        json.loads(Path(client().download_artifacts(run, f"{name}.json")).read_text())
        for name in ("test_report", "history")
    )
    return {
        "parameters": int(
            client().get_model_version("cifake-detector", str(trained["model_version"])).tags["parameters"]
        ),
        "accuracy": report["all"]["accuracy"],
        "interval": report["all"]["interval"],
        "labels": report["all"]["labels"],
        "auroc": report["all"]["auroc"],
        "train accuracy by epoch": [round(epoch["accuracy"], 4) for epoch in history],
        "seconds an epoch, median": round(statistics.median(epoch["seconds"] for epoch in history), 1),
        "peak memory, MB": round(memory / 1024),
    }


def cifake(*arguments: str) -> tuple[dict[str, Any], int]:
    """What a verb says, and its peak memory in KiB."""
    running = subprocess.Popen([CIFAKE, *arguments, "--json"], stdout=subprocess.PIPE, text=True)
    said = running.stdout.read() if running.stdout else ""
    _, code, used = os.wait4(running.pid, 0)
    if code:
        raise SystemExit(f"cifake {arguments[0]} failed")
    return json.loads(said.splitlines()[-1]), used.ru_maxrss


if __name__ == "__main__":
    main()
