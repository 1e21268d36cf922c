"""`cifake watch` and `cifake harden`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cifake_core.verb import verb


def _render_watch(shown: Any) -> str:
    known = ", ".join(f"{name} {value:.3f}" for name, value in shown.figures.items() if value is not None)
    return "\n".join([f"{shown.action}: {'; '.join(shown.reasons) or 'nothing asks for a training'}", f"  {known}"])


@verb("watch", render=_render_watch)
@click.option(
    "--policy",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Other thresholds; default CIFAKE_WATCH_POLICY.",
)
@click.option("--prometheus", metavar="URL", help="Where to read figures; default CIFAKE_PROMETHEUS_URL.")
@click.option("--run", default="", metavar="NAME", help="Who asks; asking again under it gives the same decision.")
def watch(policy: Path | None, prometheus: str | None, run: str) -> Any:
    """Read the figures, decide whether they ask for a training, record the decision in MLflow.

    \b
    cifake watch

    "action" is train, none, or wait: asked for, but within the cool-down or over the cap. Nothing is trained here.
    """
    from cifake_core.loop.watch import watch

    return watch(policy, prometheus, run)


@click.group()
def harden() -> None:
    """Train against a generator whose images get past the detector: prepare, train, validate and promote, report."""


def _passed(shown: dict[str, Any]) -> str:
    return (
        f"{shown['accepted']} of {shown['images']} pass as REAL ({100 * shown['share']:.1f} %, 95 % interval "
        f"{100 * shown['lower']:.1f}–{100 * shown['upper']:.1f} %)"
    )


def _render_prepare(shown: dict[str, Any]) -> str:
    return (
        f"{shown['generator']}: {_passed(shown['before'])} today\ndataset version {shown['dataset_version']}: "
        f"{shown['train_rows']} of its images to train on, {shown['test_rows']} held apart, "
        f"{shown['unused']} not used\n"
        f"next: cifake train --dataset {shown['dataset_version']}"
    )


@verb("prepare", render=_render_prepare)
@click.option("--images", required=True, metavar="FOLDER|PARQUET|URL", help="The generator's images.")
@click.option("--generator", required=True, metavar="NAME", help="What to call it in the lineage.")
@click.option("--dataset", "base", metavar="VERSION", help="Add to this; default: what the model was trained on.")
@click.option("--version", default="champion", show_default=True, help="The model to measure today.")
@click.option("--train-share", type=click.FloatRange(0, 1), default=0.5, show_default=True, help="To train on.")
@click.option("--train-rows", type=click.IntRange(min=1), help="How many to train on, instead of a share.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Decides which.")
def prepare(**options: Any) -> Any:
    """Measure how many of a generator's images pass as REAL, and make a dataset version to train on.

    \b
    cifake harden prepare --images new-generator/ --generator ddpm --train-rows 128
    """
    from cifake_core.loop.harden import prepare

    return prepare(**options)


def _render_report(shown: dict[str, Any]) -> str:
    return (
        f"{shown['generator']}, images held apart\n  before, version {shown['before']['model_version']}: "
        f"{_passed(shown['before'])}\n  after, version {shown['after']['model_version']}: {_passed(shown['after'])}\n"
        f"old test images: {100 * shown['old_accuracy_before']:.2f} % → {100 * shown['old_accuracy_after']:.2f} %"
    )


@verb("report", render=_render_report)
@click.option("--dataset", "dataset_version", required=True, metavar="VERSION", help="What `prepare` made.")
@click.option("--generator", required=True, metavar="NAME", help="As for `prepare`.")
@click.option("--before", required=True, metavar="VERSION", help="The model version before.")
@click.option("--after", required=True, metavar="VERSION", help="The model version trained on it.")
def report(**options: Any) -> Any:
    """Compare two model versions on the generator's held-out images and on the old test images."""
    from cifake_core.loop.harden import report

    return report(**options)


harden.add_command(prepare)
harden.add_command(report)
