"""What trainings that differ only in their seed reach: their mean, and how far they spread.

python -m benchmarks.seeds --dataset VERSION --recipe house-s --seeds 3

Each seed is `cifake train`, then `cifake evaluate` on the test split and on the tiles of CIFAKE_UNSEEN; nothing is
chosen by either. `--epochs` makes the cycle shorter than the recipe's, for a learning curve. Hours on two cores:
killed, the same command goes on after the last whole epoch, and what the result file holds of the same recipe and
dataset version is not trained again, on another machine neither.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

from benchmarks import common
from benchmarks.paper_topologies import cifake


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", required=True, help="a version in CIFAKE_HOME")
    parser.add_argument("--recipe", required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, help="instead of the recipe's")
    options = parser.parse_args()
    from cifake_core.training.options import options as recipe

    given = {"epochs": options.epochs} if options.epochs else {}
    asked = {"dataset version": options.dataset, "recipe": recipe(options.recipe, **given).model_dump(mode="json")}
    name = "_".join(["seeds", options.recipe, *(f"{count}_{what}" for what, count in given.items())])
    training = ["train", "--recipe", options.recipe, "--dataset", options.dataset]
    training += [f"--{what}={count}" for what, count in given.items()]
    by_seed: dict[str, dict[str, float]] = common.kept(name, asked).get("by seed", {})
    for seed in map(str, range(options.seeds)):
        if seed in by_seed:
            continue
        trained, _ = cifake(*training, "--seed", seed)
        by_seed[seed] = _measure(str(trained["model_version"]))
        common.write_result(
            name,
            {
                "what": f"`cifake train --recipe {options.recipe}` by seed, scored on the test split at 0.5",
                **asked,
                "mean and standard deviation": _spread(list(by_seed.values())),
                "by seed": by_seed,
                "machine": common.machine("tensorflow-cpu", "keras"),
            },
        )


def _measure(version: str) -> dict[str, float]:
    evaluated, _ = cifake("evaluate", "--version", version)
    return {name: round(value, 4) for name, value in evaluated["metrics"].items()}


def _spread(figures: list[dict[str, Any]]) -> dict[str, list[float | None]]:
    found: dict[str, list[float | None]] = {}
    for name in figures[0]:
        values = [each[name] for each in figures]
        deviation = round(statistics.stdev(values), 4) if len(values) > 1 else None
        found[name] = [round(statistics.mean(values), 4), deviation]
    return found


if __name__ == "__main__":
    main()
