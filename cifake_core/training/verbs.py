"""`cifake train`."""

from __future__ import annotations

from typing import Any

import click

from cifake_core.verb import verb


def _render(trained: Any) -> str:
    metrics = ", ".join(f"{name} {value:.4f}" for name, value in trained.metrics.items())
    return (
        f"model version {trained.model_version} (run {trained.run_id})\n  test: {metrics}\n"
        f"next: cifake promote --version {trained.model_version}"
    )


@verb("train", render=_render)
@click.option("--dataset", "version", metavar="VERSION", required=True, help="Dataset version; see `cifake data list`.")
@click.option("--recipe", metavar="NAME|FILE", help="Named options: house-s, house-m, or a YAML file of your own.")
@click.option("--topology", metavar="NAME", help="Network shape: seed (the default), bird-lotfi, house-s, house-m …")
@click.option("--epochs", type=click.IntRange(min=1), help="Passes over the images; 5 without a recipe.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Images per step; 32 without a recipe.")
@click.option("--learning-rate", type=float, help="Adam's largest step; 0.001 without a recipe.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), help="Weights, order and changes of images; 0 by default.")
@click.option(
    "--image-size",
    type=click.IntRange(8, 512),
    help="Pixels a side that the network resizes images to; 32 by default, the paper's resized variant is 224.",
)
def train(version: str, recipe: str | None, **given: Any) -> Any:
    """Train a network on a dataset version, check it, and register it as a model version.

    \b
    cifake train --dataset 5b1f0c9a7d3e2f41
    cifake train --dataset 5b1f0c9a7d3e2f41 --topology bird-lotfi --epochs 10 --seed 1
    cifake train --dataset 5b1f0c9a7d3e2f41 --recipe house-s

    Options given beside a recipe replace the recipe's.

    Everything about the run is in MLflow. Interrupt it at any point and give the same command again: it goes on after
    the last whole epoch and ends with the same weights. The new version is not served until `cifake promote`.
    """
    from cifake_core.storage import Store
    from cifake_core.training.options import options
    from cifake_core.training.train import train as run

    wanted = options(recipe, **{name: value for name, value in given.items() if value is not None})
    return run(Store(), version, wanted)
