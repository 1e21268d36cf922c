"""Train against a generator whose images get past the detector."""

from __future__ import annotations

from airflow.sdk import Param, dag
from assets import announce
from steps import step

DOC = """
### Train against a generator whose images get past the detector

prepare → validate → train → promote, if the gate allows → report.

`prepare` measures how many of the images pass as REAL today, puts part of them into the train split of a new dataset
version and the rest into its test split. `report` says how many pass afterwards, and what became of the accuracy on
the old test images. A refusal by the gate is no failure.
"""

NAME = {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]*$"}

CHAMPION = "{{ ti.xcom_pull(task_ids='prepare', key='before')['model_version'] }}"


@dag(
    schedule=None,
    catchup=False,
    is_paused_upon_creation=False,
    max_active_runs=1,
    tags=["cifake", "monitoring"],
    doc_md=DOC,
    params={
        "images": Param(
            type="string",
            minLength=1,
            pattern="^[^-]",
            description="A folder or Parquet file, or its URL: what a step can reach.",
        ),
        "generator": Param("new-generator", **NAME, description="What to call it in the lineage."),
        "train_rows": Param(128, type="integer", minimum=1, description="Of its images to train on."),
        "recipe": Param("harden", **NAME, description="How to train; see docs/training.md."),
        "seed": Param(0, type="integer", minimum=0, description="Decides which images, and the order of training."),
    },
)
def cifake_harden() -> None:
    """The tasks, in order."""
    prepare = step(
        *("prepare", "harden", "prepare", "--images", "{{ params.images }}", "--generator", "{{ params.generator }}"),
        *("--train-rows", "{{ params.train_rows }}", "--seed", "{{ params.seed }}"),
        doc_md="Measures the champion on them, and makes a dataset version that holds some.",
    )
    validate = step(
        *("validate", "validate", "--dataset", prepare.output["dataset_version"]),
        doc_md="Nothing is trained on data that fails here; the report says why.",
    )
    train = step(
        *("train", "train", "--dataset", validate.output["dataset_version"], "--recipe", "{{ params.recipe }}"),
        *("--start", CHAMPION, "--seed", "{{ params.seed }}"),
        doc_md="Goes on from the champion's weights; exports and registers a new version of `cifake-detector`.",
    )
    promote = step(
        *("promote", "promote", "--version", train.output["model_version"]),
        *("--reason", "{{ dag.dag_id }} {{ run_id }}"),
        doc_md="Judges it against the champion, on the held-out images too.",
    )
    report = step(
        *("report", "harden", "report", "--dataset", validate.output["dataset_version"]),
        *("--generator", "{{ params.generator }}", "--after", train.output["model_version"]),
        *("--before", CHAMPION),
        doc_md="How many pass before and after, and the accuracy on the old test images.",
    )
    promote >> report  # type: ignore[operator]
    announce(promote.output["promoted"], promote.output["champion"])


cifake_harden()
