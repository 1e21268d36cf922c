"""Look at the figures every hour; train when they ask for it."""

from __future__ import annotations

from datetime import timedelta

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import Param, dag, task
from steps import step

DOC = """
### Look at the figures every hour; train when they ask for it

`watch` reads drift and live accuracy from Prometheus and decides by `cifake_core/loop/policy.yaml`: thresholds, a
cool-down, a cap. Each decision is a run in MLflow with the numbers behind it.

With images of the generator at hand (`images`), it triggers `cifake_harden`; without, `cifake_dataset`, whose new
version starts `cifake_training`.
"""

NAME = {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]*$"}


@dag(
    schedule=timedelta(hours=1),
    catchup=False,
    max_active_runs=1,
    tags=["cifake", "monitoring"],
    doc_md=DOC,
    params={
        "images": Param(
            "", type="string", pattern="^([^-].*)?$", description="Collected images of a new generator, if any."
        ),
        "generator": Param("embedded", **NAME, description="Their generator; without images, the one to draw with."),
    },
)
def cifake_monitoring() -> None:
    """Decide, and trigger at most one DAG."""
    watch = step("watch", "watch", "--run", "{{ run_id }}", doc_md="What do the figures ask for?")
    harden = TriggerDagRunOperator(
        task_id="harden",
        trigger_dag_id="cifake_harden",
        conf={"images": "{{ params.images }}", "generator": "{{ params.generator }}"},
        doc_md="Trains against the collected images; `generator` must be new to the champion's data.",
    )
    renew = TriggerDagRunOperator(
        task_id="renew",
        trigger_dag_id="cifake_dataset",
        conf={"generator": "{{ params.generator }}"},
        doc_md="Draws a new dataset version, which starts a training.",
    )
    which(watch.output["action"], "{{ params.images }}") >> [harden, renew]


@task.branch(doc_md="Harden against collected images, draw new data, or neither.")
def which(action: str, images: str) -> list[str]:
    """The task that follows."""
    if action != "train":
        return []
    return ["harden"] if images else ["renew"]


cifake_monitoring()
