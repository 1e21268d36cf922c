"""The paper's search of 36 networks: all on a subset, the best six on all training images, the best by seed.

python -m benchmarks.paper_sweep

`cifake sweep` tries the grid on `--rows` training images; the six best by validation accuracy are trained anew on all
of them, and the best of these, by validation accuracy again, with `--seeds` seeds. Test accuracies are reported and
choose nothing. It takes hours on two cores; killed, the same command goes on after the last whole epoch.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
from pathlib import Path
from typing import Any

from benchmarks import common
from benchmarks.paper_topologies import cifake
from cifake_core.mlflow_client import client


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--best", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--home", type=Path, default=common.CHECKOUT / ".cifake/benchmarks/paper_sweep")
    options = parser.parse_args()
    os.environ["CIFAKE_HOME"] = str(options.home.absolute())
    part, whole = (_version(*rows) for rows in (["--train-rows", str(options.rows)], ["--validation-fraction", "0.05"]))
    swept, _ = cifake("sweep", "--dataset", part)
    _keep_pictures(swept["sweep"])
    result: dict[str, Any] = {
        "what": f"{len(swept['members'])} networks of the paper's grid, Adam 0.001, batches of 32, five epochs",
        "subset": {"dataset_version": part, "train_rows": options.rows, "members": swept["members"]},
        "all rows": {"dataset_version": whole, "epochs": options.epochs, "members": {}},
    }
    found: dict[str, list[dict[str, Any]]] = result["all rows"]["members"]
    names = [member["topology"] for member in swept["members"][: options.best]]
    _write(result)
    for name in names:
        found[name] = [_train(name, 0, whole, options.epochs)]
        _write(result)
    best = max(names, key=lambda name: found[name][0]["val_accuracy"])
    found[best] += [_train(best, seed, whole, options.epochs) for seed in range(1, options.seeds)]
    accuracies = [each["accuracy"] for each in found[best]]
    result["best"] = {
        "topology": best,
        "seeds": len(accuracies),
        "test accuracy, mean": round(statistics.mean(accuracies), 4),
        "test accuracy, standard deviation": round(statistics.stdev(accuracies), 4),
    }
    _write(result)


def _version(*rows: str) -> str:
    manifest, _ = cifake("data", "build", *rows)
    return str(manifest["dataset_version"])


def _train(topology: str, seed: int, version: str, epochs: int) -> dict[str, Any]:
    asked = ["--topology", topology, "--epochs", str(epochs), "--seed", str(seed)]
    trained, _ = cifake("train", "--dataset", version, *asked)
    metrics = client().get_run(trained["run_id"]).data.metrics
    return {"seed": seed, "accuracy": metrics["test_accuracy"], "val_accuracy": metrics["val_accuracy"]}


def _keep_pictures(sweep: str) -> None:
    folder = common.CHECKOUT / "docs/images"
    for name in ("extractors", "heads", "pareto"):
        shutil.copy(client().download_artifacts(sweep, f"{name}.png"), folder / f"sweep-{name}.png")


def _write(result: dict[str, Any]) -> None:
    common.write_result("paper_sweep", {**result, "machine": common.machine("tensorflow-cpu", "keras")})


if __name__ == "__main__":
    main()
