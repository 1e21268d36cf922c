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
@click.option("--topology", default="seed", show_default=True, metavar="NAME", help="Network shape: seed, bird-lotfi …")
@click.option("--epochs", type=click.IntRange(min=1), default=5, show_default=True, help="Passes over the images.")
@click.option("--batch-size", type=click.IntRange(min=1), default=32, show_default=True, help="Images per step.")
@click.option("--learning-rate", type=float, default=0.001, show_default=True, help="Adam's step size.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Weights and order.")
@click.option(
    "--image-size",
    type=click.IntRange(8, 512),
    default=32,
    show_default=True,
    help="Pixels a side that the network resizes images to; the paper's resized variant is 224.",
)
def train(version: str, **options: Any) -> Any:
    """Train a network on a dataset version, check it, and register it as a model version.

    \b
    cifake train --dataset 5b1f0c9a7d3e2f41
    cifake train --dataset 5b1f0c9a7d3e2f41 --topology bird-lotfi --epochs 10 --seed 1

    Everything about the run is in MLflow. Interrupt it at any point and give the same command again: it goes on after
    the last whole epoch and ends with the same weights. The new version is not served until `cifake promote`.
    """
    from pydantic import ValidationError

    from cifake_core.errors import ConfigurationError
    from cifake_core.storage import Store
    from cifake_core.training.options import Options
    from cifake_core.training.train import train as run

    try:
        wanted = Options(**options)
    except ValidationError as exc:
        problem = exc.errors()[0]
        raise ConfigurationError(f"--{str(problem['loc'][0]).replace('_', '-')}: {problem['msg']}") from exc
    return run(Store(), version, wanted)
