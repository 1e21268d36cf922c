"""From a dataset version to the best of a grid of networks."""

from __future__ import annotations

from typing import Any

from airflow.sdk import Param, dag, task
from steps import mapped_step, step

from cifake_core.settings import settings

DOC = """
### From a dataset version to the best of a grid of networks

start → extractors, one task each → heads → dense layers on the best extractor, one task each → report.

The networks are runs nested in the sweep's MLflow run, which holds the maps of accuracy. The best becomes `challenger`;
nothing is served. Cleared or started again, a network that is done is not trained anew.
`CIFAKE_TRAININGS_AT_ONCE` tasks train at once.
"""


@dag(
    schedule=None,
    catchup=False,
    is_paused_upon_creation=False,
    max_active_runs=1,
    tags=["cifake", "training"],
    doc_md=DOC,
    params={
        "dataset_version": Param(
            "0" * 16,
            type="string",
            pattern="^[0-9a-f]{16}$",
            description="Which to train on; it needs validation rows.",
        ),
        "grid": Param(
            "paper",
            type="string",
            pattern="^[A-Za-z0-9/][A-Za-z0-9._/-]*$",
            description="A grid that ships, or a YAML file that every worker can read.",
        ),
    },
)
def cifake_sweep() -> None:
    """The tasks, in order."""
    start = step(
        *("start", "sweep", "start", "--dataset", "{{ params.dataset_version }}", "--grid", "{{ params.grid }}"),
        doc_md="Opens the sweep's MLflow run, or finds it.",
    )
    together: dict[str, Any] = {
        "max_active_tis_per_dagrun": settings().trainings_at_once,
        "doc_md": "Trains one network; one that is done is not trained anew.",
    }
    sweep = start.output["sweep"]
    extractors = mapped_step(
        "train_extractor",
        "sweep",
        members.override(task_id="extractors")(sweep, start.output["topologies"]),
        **together,
    )
    heads = step("heads", "sweep", "heads", "--sweep", sweep, doc_md="Says what to try on the best extractor.")
    with_heads = mapped_step(
        "train_head", "sweep", members.override(task_id="networks")(sweep, heads.output["topologies"]), **together
    )
    report = step(
        *("report", "sweep", "report", "--sweep", sweep),
        trigger_rule="none_failed",  # a grid may have no heads
        doc_md="Draws the maps; the best network becomes `challenger`.",
    )
    extractors >> heads
    with_heads >> report


@task(doc_md="A command for each network.")
def members(sweep: str, topologies: list[str]) -> list[list[str]]:
    """Arguments of a `cifake sweep member` for each topology."""
    return [["sweep", "member", "--sweep", sweep, "--topology", name] for name in topologies]


cifake_sweep()
