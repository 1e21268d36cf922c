"""evaluate, promote, rollback and registry: the verbs that judge model versions and move aliases."""

from __future__ import annotations

from pathlib import Path
from textwrap import shorten
from typing import Any

import click

from cifake_core.verb import verb

_DATASET = click.option("--dataset", "dataset_version", metavar="VERSION", help="Default: the one it was trained on.")
_UNSEEN = click.option(
    "--unseen", metavar="URL", help="Parquet of tiles by generators never trained on (CIFAKE_UNSEEN)."
)


def _render_evaluate(shown: dict[str, Any]) -> str:
    figures = shown["metrics"]
    lines = [f"version {shown['version']} on dataset version {shown['dataset_version']}"]
    lines += [f"  {name}: {value:.4f}" for name, value in figures.items() if "/" not in name]
    worst = sorted((v, k.removeprefix("slice/")) for k, v in figures.items() if k.startswith("slice/"))[:5]
    lines += ["weakest slices: " + ", ".join(f"{name} {100 * value:.1f} %" for value, name in worst)]
    gains = [(k.split("/")[1], v) for k, v in figures.items() if k.startswith("averaged/") and k.endswith("/gain")]
    lines += ["test-time averaging, used nowhere: " + ", ".join(f"{name} {100 * v:+.2f} points" for name, v in gains)]
    return "\n".join([*lines, f"report: {shown['report_url']}"])


@verb("evaluate", render=_render_evaluate)
@click.option("--version", "ref", default="champion", show_default=True, help="A version's number, or an alias.")
@_DATASET
@_UNSEEN
@click.option("--damage-rows", type=click.IntRange(min=1), default=2000, show_default=True, help="Images per damage.")
def evaluate(**options: Any) -> Any:
    """Measure a registered version on a test split: accuracy, calibration, damages, classes, unseen generators.

    \b
    cifake evaluate --version 3
    cifake evaluate --version champion --unseen tiles.parquet

    The report (JSON and one HTML page) goes to the store and to the version's MLflow run.
    """
    from cifake_core.registry.evaluate import evaluate_version

    return evaluate_version(**options)


def _render_promote(shown: dict[str, Any]) -> str:
    head = (
        f"version {shown['version']} is champion"
        if shown["promoted"]
        else f"version {shown['version']} is not promoted"
    )
    lines = [head, *(f"  {why}" for why in shown["reasons"])]
    if not shown["promoted"]:
        lines.append(f"champion stays version {shown['champion']}" if shown["champion"] else "there is no champion")
    return "\n".join(lines + ([f"report: {shown['report_url']}"] if shown["report_url"] else []))


@verb("promote", render=_render_promote)
@click.option("--version", required=True, help="The candidate: a version's number, or an alias such as challenger.")
@click.option("--reason", default="", help="Why; recorded with the decision.")
@_DATASET
@_UNSEEN
@click.option(
    "--force/--no-force", help="Promote although checks fail; needs --reason, and is recorded as forced. [default: no]"
)
@click.option(
    "--policy", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Other thresholds than gates.yaml."
)
def promote(**options: Any) -> Any:
    """Make a version champion, if it passes the gate against the present one; else it becomes challenger.

    \b
    cifake promote --version 4 --reason "trained on the new generator"

    Both are scored on the same images. The alias is the deployment: services follow it within seconds. A version that
    does not pass is no error: exit code 0, with "promoted": false and the reasons.
    """
    from cifake_core.registry.promotion import promote

    return promote(**options)


def _render_rollback(shown: dict[str, Any]) -> str:
    if not shown["rolled_back"]:
        return f"nothing to do: version {shown['champion']} is the champion"
    return f"version {shown['champion']} is champion again; version {shown['from']} is previous"


@verb("rollback", render=_render_rollback)
@click.option("--to", type=click.IntRange(min=1), help="A version that was champion before. Default: `previous`.")
@click.option("--from", "only_from", type=click.IntRange(min=1), help="Do nothing unless this version is champion.")
@click.option("--reason", default="", help="Why; recorded with the decision.")
def rollback(**options: Any) -> Any:
    """Make the previous champion champion again, at once and without a gate.

    \b
    cifake rollback --reason "false alarms on phone photos"
    """
    from cifake_core.registry.promotion import rollback

    return rollback(**options)


@click.group()
def registry() -> None:
    """Look at what was decided about model versions, and whether it is what is served."""


def _render_history(shown: dict[str, Any]) -> str:
    rows = [
        f"{d['number']:>4}  {d['at']}  version {d['version']} {d['kind']}"
        + (f" (champion was {d['champion']})" if d["champion"] else "")
        + f" by {d['actor']}: {shorten(d['reason'], 120, placeholder=' …')}"
        for d in shown["decisions"]
    ]
    return "\n".join(rows) or "no decision yet; `cifake promote --version N` makes one"


@verb("history", render=_render_history)
def history() -> Any:
    """List all decisions: promotions, refusals, forced promotions, rollbacks. Entries are never changed."""
    from cifake_core.registry.verify import shown_history

    return shown_history()


def _render_verify(shown: dict[str, Any]) -> str:
    if not shown["champion"] and not shown["problems"]:
        return "no champion yet, and none recorded"
    good = f"version {shown['champion']} is champion, as decided; its artefacts and gate report are in place"
    return "\n".join((shown["problems"] or [good]) + shown["notes"])


@verb("verify", render=_render_verify)
def verify() -> Any:
    """Check that the champion is the one that was decided on, whole and with its gate report; exit code 1 if not."""
    from cifake_core.registry.verify import verify

    return verify()


@verb("webhook")
@click.argument("url")
def webhook(url: str) -> Any:
    """Let MLflow call the detector at URL whenever an alias moves, so that it need not wait for its next poll.

    \b
    CIFAKE_WEBHOOK_SECRET=… cifake registry webhook http://detector:3000/webhooks/mlflow

    The detector needs the same CIFAKE_WEBHOOK_SECRET. Doing it again renews address and secret.
    """
    from cifake_core.registry.webhook import register

    return register(url)


def _render_import(shown: dict[str, Any]) -> str:
    how = "registered" if shown["imported"] else "registered before"
    number = shown["version"]
    next_step = f"next: cifake promote --version {number} --dataset VERSION"
    return f"the shipped detector is version {number} ({how})\n{next_step}"


@verb("import", render=_render_import)
def import_verb() -> Any:
    """Register the detector that ships with cifake as a version: something to judge one's own against.

    Until a version is champion, services and `cifake classify` use it anyhow.
    """
    from cifake_core.registry.ship import import_shipped

    return import_shipped()


@verb("ship")
@click.option("--version", "ref", required=True, help="A version's number, or an alias.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Default: into the package.")
def ship_verb(ref: str, out: Path | None) -> Any:
    """Put a version into the package as the detector to start with; threshold and abstain band by its validation split.

    \b
    cifake registry ship --version 3
    """
    from cifake_core.registry.ship import ship

    return ship(ref, out)


registry.add_command(import_verb)
registry.add_command(ship_verb)
registry.add_command(history)
registry.add_command(verify)
registry.add_command(webhook)
