"""The paper's search of 36 networks: all on a subset, the best six on all training images, the best by seed.

python -m benchmarks.paper_sweep

`cifake sweep` tries the grid on `--rows` training images; the six best by validation accuracy are trained anew on all
of them. Of these the smallest whose validation accuracy is within one standard error of the best's (Breiman et al.
1984) is trained with `--seeds` seeds: so few images cannot order them more finely. Test accuracies are reported
and choose nothing. It takes hours on two cores. Killed, the same command goes on after the last whole epoch; what the
result file holds of the same datasets is not trained again, on another machine neither (`--anew` does).
"""

from __future__ import annotations

import argparse
import math
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
    parser.add_argument("--anew", action="store_true", help="take nothing from the result file")
    parser.add_argument("--home", type=Path, default=common.CHECKOUT / ".cifake/benchmarks/paper_sweep")
    options = parser.parse_args()
    os.environ["CIFAKE_HOME"] = str(options.home.absolute())
    part, _ = _version("--train-rows", str(options.rows))
    whole, validation = _version("--validation-fraction", "0.05")
    result = {} if options.anew else common.kept("paper_sweep", {})
    if result.get("subset", {}).get("dataset_version") != part:
        swept, _ = cifake("sweep", "--dataset", part)
        _keep_pictures(swept["sweep"])
        result = {
            "what": f"{len(swept['members'])} networks of the paper's grid, Adam 0.001, batches of 32, five epochs",
            "subset": {"dataset_version": part, "train_rows": options.rows, "members": swept["members"]},
        }
    asked = {"dataset_version": whole, "epochs": options.epochs}
    if not asked.items() <= result.get("all rows", {}).items():
        result["all rows"] = asked | {"members": {}}
        result.pop("best", None)
    found: dict[str, dict[str, Any]] = result["all rows"]["members"]

    def train(name: str, seed: int) -> None:
        if str(seed) not in found.setdefault(name, {}):
            found[name][str(seed)] = _train(name, seed, whole, options.epochs)
            _write(result)

    names = [member["topology"] for member in result["subset"]["members"][: options.best]]
    for name in names:
        train(name, 0)
    best = _smallest_of_the_best(result["subset"]["members"][: options.best], found, validation)
    for seed in range(1, options.seeds):
        train(best, seed)
    accuracies = [each["accuracy"] for each in found[best].values()]
    result["best"] = {
        "topology": best,
        "seeds": len(accuracies),
        "test accuracy, mean": round(statistics.mean(accuracies), 4),
        "test accuracy, standard deviation": round(statistics.stdev(accuracies), 4),
    }
    _write(result)


def _smallest_of_the_best(members: list[dict[str, Any]], found: dict[str, dict[str, Any]], validation: int) -> str:
    accuracy = {member["topology"]: found[member["topology"]]["0"]["val_accuracy"] for member in members}
    highest = max(accuracy.values())
    least = highest - math.sqrt(highest * (1 - highest) / validation)
    good = [member for member in members if accuracy[member["topology"]] >= least]
    return str(min(good, key=lambda member: member["parameters"])["topology"])


def _version(*rows: str) -> tuple[str, int]:
    """A dataset version, and how many images it validates by."""
    manifest, _ = cifake("data", "build", *rows)
    return str(manifest["dataset_version"]), sum(manifest["counts"]["validation"].values())


def _train(topology: str, seed: int, version: str, epochs: int) -> dict[str, Any]:
    asked = ["--topology", topology, "--epochs", str(epochs), "--seed", str(seed)]
    trained, _ = cifake("train", "--dataset", version, *asked)
    metrics = client().get_run(trained["run_id"]).data.metrics
    return {"accuracy": metrics["test_accuracy"], "val_accuracy": metrics["val_accuracy"]}


def _keep_pictures(sweep: str) -> None:
    folder = common.CHECKOUT / "docs/images"
    for name in ("extractors", "heads", "pareto"):
        shutil.copy(client().download_artifacts(sweep, f"{name}.png"), folder / f"sweep-{name}.png")


def _write(result: dict[str, Any]) -> None:
    common.write_result("paper_sweep", {**result, "machine": common.machine("tensorflow-cpu", "keras")})


if __name__ == "__main__":
    main()
