"""From a validated dataset version to a judged model version."""

from __future__ import annotations

from typing import Any

from airflow.sdk import Param, dag, task
from airflow.sdk.exceptions import AirflowFailException
from assets import DATASET, announce, told
from steps import step

DOC = """
### From a validated dataset version to a judged model version

train → evaluate → gate → promote. Starts by itself when a dataset version is published, or by hand with one named in
`dataset_version`. The gate needs the version's validation result, so data that nobody validated is trained on in vain.

A refusal is no failure: the version becomes `challenger`, and the log of `promote` says why.
"""

NAME = {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]*$"}


@dag(
    schedule=[DATASET],
    catchup=False,
    is_paused_upon_creation=False,
    max_active_runs=1,
    tags=["cifake", "training"],
    doc_md=DOC,
    params={
        "dataset_version": Param(
            "",
            type="string",
            pattern="^([0-9a-f]{16})?$",
            description="Which to train on; empty: the one whose publication started this run.",
        ),
        "topology": Param("seed", **NAME, description="Shape of the network.", examples=["seed", "bird-lotfi"]),
        "epochs": Param(5, type="integer", minimum=1, maximum=1000, description="Passes over the training rows."),
        "seed": Param(0, type="integer", minimum=0, description="Decides initial weights and order."),
    },
)
def cifake_training() -> None:
    """The tasks, in order."""
    train = step(
        *("train", "train", "--dataset", which_dataset(), "--topology", "{{ params.topology }}"),
        *("--epochs", "{{ params.epochs }}", "--seed", "{{ params.seed }}"),
        doc_md="Trains, exports and registers a new version of `cifake-detector`; tracked in MLflow.",
    )
    evaluate = step(
        *("evaluate", "evaluate", "--version", train.output["model_version"]),
        doc_md="Scores the new version on the test split; report in its MLflow run.",
    )
    promote = step(
        *("promote", "promote", "--version", train.output["model_version"]),
        *("--reason", "{{ dag.dag_id }} {{ run_id }}"),
        doc_md="Judges it against the champion; moves the alias, or makes it `challenger` and says why.",
    )
    evaluate >> promote  # type: ignore[operator]
    announce(promote.output["promoted"], promote.output["champion"])


@task(doc_md="The param, or what the publication says.")
def which_dataset(*, params: Any = None, triggering_asset_events: Any = None) -> str:
    """The dataset version to train on."""
    found = params["dataset_version"] or told(triggering_asset_events, DATASET, "dataset_version")
    if not found:
        raise AirflowFailException("no dataset version: name one in the param dataset_version")
    return str(found)


cifake_training()
