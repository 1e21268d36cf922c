"""`cifake VERB`: one verb per pipeline step; a verb is exactly what a pod runs. No logic here."""

from __future__ import annotations

import importlib

import click

VERBS = {
    "data": "cifake_core.images.verbs",
    "generate": "cifake_core.generation.verbs",
    "validate": "cifake_core.validation.verbs",
    "train": "cifake_core.training.verbs",
    "sweep": "cifake_core.training.verbs",
    "evaluate": "cifake_core.registry.verbs",
    "promote": "cifake_core.registry.verbs",
    "rollback": "cifake_core.registry.verbs",
    "registry": "cifake_core.registry.verbs",
    "watch": "cifake_core.loop.verbs",
    "harden": "cifake_core.loop.verbs",
    "rollout": "cifake_core.client.verbs",
    "classify": "cifake_core.client.verbs",
    "explain": "cifake_core.client.verbs",
    "serve": "cifake_core.client.verbs",
    "status": "cifake_core.client.verbs",
}


class Verbs(click.Group):
    """Loads a room's verbs only when one of them is asked for or listed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All verbs, in pipeline order."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """One verb, its room imported now."""
        if cmd_name not in VERBS:
            return None
        return getattr(importlib.import_module(VERBS[cmd_name]), cmd_name)  # type: ignore[no-any-return]


@click.command(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="cifake")
def main() -> None:
    """Tell real photographs from AI-generated ones, and keep learning as generators change.

    The pipeline, verb by verb: data build, validate, train, evaluate, promote, serve, classify.
    """
