"""See a new champion to every replica, or go back."""

from __future__ import annotations

from typing import Any

from airflow.sdk import Param, dag, task
from assets import CHAMPION, told
from steps import step

DOC = """
### See a new champion to every replica, or go back

Starts by itself when a version was promoted, or by hand. `rollout` waits until every replica of the service reports
the version and compares its answers on golden images with the model's own. If that fails and the version still is
champion, the previous champion is champion again; the run fails either way, so that somebody looks.

`verify` fails when the champion is not the one that was decided on: somebody moved the alias in MLflow.
"""


@dag(
    schedule=[CHAMPION],
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,
    tags=["cifake", "registry"],
    doc_md=DOC,
    params={
        "version": Param(
            "",
            type="string",
            pattern="^[0-9]*$",
            description="Which version must be served; empty: the one that was promoted, else the champion.",
        ),
        "timeout": Param(120, type="integer", minimum=1, maximum=3600, description="Seconds the replicas may take."),
    },
)
def cifake_rollout() -> None:
    """Two tasks beside each other."""
    step("verify", "registry", "verify", doc_md="Is what is served what was decided?")
    step(
        *("rollout", "rollout", "--version", which_version(), "--timeout", "{{ params.timeout }}", "--roll-back"),
        doc_md="Every replica serves the version and answers as it should; otherwise back to the previous one.",
    )


@task(doc_md="The param, else what the promotion says, else the champion.")
def which_version(*, params: Any = None, triggering_asset_events: Any = None) -> str:
    """The version to wait for."""
    return str(params["version"] or told(triggering_asset_events, CHAMPION, "version") or "champion")


cifake_rollout()
