"""`cifake train` and `cifake sweep`."""

from __future__ import annotations

from typing import Any

import click

from cifake_core.verb import verb

_DATASET = click.option(
    "--dataset", "version", metavar="VERSION", required=True, help="Dataset version; see `cifake data list`."
)


def _render(trained: Any) -> str:
    metrics = ", ".join(f"{name} {value:.4f}" for name, value in trained.metrics.items())
    return (
        f"model version {trained.model_version} (run {trained.run_id})\n  test: {metrics}\n"
        f"next: cifake promote --version {trained.model_version}"
    )


@verb("train", render=_render)
@_DATASET
@click.option(
    "--recipe", metavar="NAME|FILE", help="Named options: house-s, house-m, zoo, harden, or a YAML file of your own."
)
@click.option(
    "--start",
    "starts",
    metavar="VERSION|ALIAS",
    multiple=True,
    help="Go on from that model version's weights; several: from their mean.",
)
@click.option(
    "--member",
    "members",
    metavar="VERSION|ALIAS",
    multiple=True,
    help="Put that model version's network beside others as one, an ensemble; 0 epochs by default.",
)
@click.option(
    "--teacher",
    "teachers",
    metavar="VERSION|ALIAS",
    multiple=True,
    help="Learn that model version's answers instead of the labels; several: their mean.",
)
@click.option("--topology", metavar="NAME", help="Network shape: seed (the default), bird-lotfi, house-s, house-m …")
@click.option("--epochs", type=click.IntRange(min=0), help="Passes over the images; 5 without a recipe.")
@click.option("--patience", type=click.IntRange(min=0), help="Stop after so many epochs without a lower loss.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Images per step; 32 without a recipe.")
@click.option("--learning-rate", type=float, help="The optimizer's largest step; 0.001 without a recipe.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), help="Weights, order and changes of images; 0 by default.")
@click.option(
    "--image-size",
    type=click.IntRange(8, 512),
    help="Pixels a side that the network resizes images to; 32 by default, the paper's resized variant is 224.",
)
def train(
    version: str,
    recipe: str | None,
    starts: tuple[str, ...],
    members: tuple[str, ...],
    teachers: tuple[str, ...],
    **given: Any,
) -> Any:
    """Train a network on a dataset version, check it, and register it as a model version.

    \b
    cifake train --dataset 5b1f0c9a7d3e2f41
    cifake train --dataset 5b1f0c9a7d3e2f41 --topology bird-lotfi --epochs 10 --seed 1
    cifake train --dataset 5b1f0c9a7d3e2f41 --recipe house-s
    cifake train --dataset 5b1f0c9a7d3e2f41 --recipe harden --start champion
    cifake train --dataset 5b1f0c9a7d3e2f41 --member 3 --member 4 --member 5

    Options given beside a recipe replace the recipe's.

    Everything about the run is in MLflow. Interrupt it at any point and give the same command again: it goes on after
    the last whole epoch and ends with the same weights. The new version is not served until `cifake promote`.
    """
    from cifake_core.storage import Store
    from cifake_core.training.options import options
    from cifake_core.training.tracking import find_version
    from cifake_core.training.train import train as run

    given = {name: value for name, value in given.items() if value is not None}
    if starts:
        numbers, shapes = zip(*(find_version(each, "--start") for each in starts), strict=True)
        given = {"start": numbers, **shapes[0]} | given
    if members:
        numbers, shapes = zip(*(find_version(each, "--member") for each in members), strict=True)
        topology = "+".join(shape["topology"] for shape in shapes)
        given = {"members": numbers, "epochs": 0, **shapes[0], "topology": topology} | given
    if teachers:
        given["teachers"] = tuple(find_version(each, "--teacher")[0] for each in teachers)
    wanted = options(recipe, **given)
    return run(Store(), version, wanted)


def _render_sweep(swept: Any) -> str:
    rows = [
        f"  {each.topology:<24} {100 * each.accuracy:6.2f} % test  {100 * each.val_accuracy:6.2f} % validation  "
        f"{each.parameters:>11,} weights  {each.latency_ms:6.2f} ms"
        for each in swept.members
    ]
    return "\n".join(
        [
            f"sweep {swept.sweep}, best first by validation accuracy:",
            *rows,
            f"{swept.best} is version {swept.model_version}, alias challenger",
            f"next: cifake promote --version {swept.model_version}",
        ]
    )


def _without_subcommand(**options: Any) -> Any:
    if click.get_current_context().invoked_subcommand is None:
        if not options["version"]:
            raise click.UsageError("Missing option '--dataset'.")
        assert _sweep.callback is not None
        _sweep.callback(**options)


_GRID = click.option(
    "--grid", "grid_name", metavar="NAME|FILE", default="paper", show_default=True, help="What to try, as YAML."
)
_SWEEP = click.option("--sweep", "run_id", metavar="RUN", required=True, help="The sweep's MLflow run.")


@verb("sweep", render=_render_sweep)
@click.option("--dataset", "version", metavar="VERSION", help="Dataset version; see `cifake data list`.")
@_GRID
def _sweep(version: str, grid_name: str) -> Any:
    """Train a grid of networks on a dataset version; the best becomes `challenger`.

    \b
    cifake sweep --dataset 5b1f0c9a7d3e2f41
    cifake sweep --dataset 5b1f0c9a7d3e2f41 --grid mine.yaml

    Extractors come first, then dense layers on the best of them by validation accuracy: the paper's search. Interrupt
    it and give the same command again: networks that are done are not trained anew. Maps are in the sweep's MLflow run.
    The subcommands are its steps, for workers that share them.
    """
    from cifake_core.storage import Store
    from cifake_core.training.sweep import load_grid, run

    return run(Store(), version, load_grid(grid_name))


sweep = click.Group(
    "sweep",
    params=_sweep.params,
    callback=_without_subcommand,
    help=_sweep.help,
    invoke_without_command=True,
    subcommand_metavar="[start|member|heads|report]",
)


@verb("start")
@_DATASET
@_GRID
def _start(version: str, grid_name: str) -> Any:
    """Open a sweep; says which extractors to train."""
    from cifake_core.storage import Store
    from cifake_core.training.sweep import load_grid, start

    return start(Store(), version, load_grid(grid_name))


@verb("member")
@_SWEEP
@click.option("--topology", metavar="NAME", required=True, help="One of those that `start` or `heads` said.")
def _member(run_id: str, topology: str) -> Any:
    """Train one network of a sweep; one that is done is not trained anew."""
    from cifake_core.storage import Store
    from cifake_core.training.sweep import member

    return member(Store(), run_id, topology)


@verb("heads")
@_SWEEP
def _heads(run_id: str) -> Any:
    """Say which dense layers to train on the best extractor."""
    from cifake_core.training.sweep import heads

    return heads(run_id)


@verb("report", render=_render_sweep)
@_SWEEP
def _report(run_id: str) -> Any:
    """Draw the maps and make the best network `challenger`."""
    from cifake_core.training.sweep import report

    return report(run_id)


for _step in (_start, _member, _heads, _report):
    sweep.add_command(_step)
