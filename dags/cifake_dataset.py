"""From a generator and real images to a published dataset version."""

from __future__ import annotations

from typing import Any

from airflow.sdk import Param, dag, task
from assets import DATASET
from steps import mapped_step, step

from cifake_core.settings import SHARD_POOL

DOC = """
### From a generator and real images to a published dataset version

plan → generate, as tasks that share the plan's shards; collect real images → assemble → validate → publish.

The plan says which images there will be; how many tasks draw at once (slots of the pool `shards`) changes none of them.
A task that is killed or cleared goes on after its last batch. What validation refuses is not published; what
is published starts the DAG `cifake_training`. The rows counted are both labels together.
"""

NAME = {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]*$"}


@dag(
    schedule=None,
    catchup=False,
    is_paused_upon_creation=False,
    max_active_runs=1,
    tags=["cifake", "dataset"],
    doc_md=DOC,
    params={
        "generator": Param(
            "embedded",
            **NAME,
            description="Who draws the FAKE images.",
            examples=["embedded", "stable-diffusion-v1-4", "stable-diffusion-v1-4-dpm", "sd-turbo", "sdxl-turbo"],
        ),
        "train_rows": Param(20_000, type="integer", minimum=20, multipleOf=2, description="Rows to train on."),
        "test_rows": Param(4_000, type="integer", minimum=20, multipleOf=2, description="Rows to test on."),
        "rows_per_task": Param(1000, type="integer", minimum=1, description="Images for one task to draw, about."),
        "seed": Param(0, type="integer", minimum=0, description="Decides every image, and the rows' order."),
    },
)
def cifake_dataset() -> None:
    """The tasks, in order."""
    rows = [
        *("--train-rows", "{{ params.train_rows // 2 }}", "--test-rows", "{{ params.test_rows // 2 }}"),
        *("--seed", "{{ params.seed }}"),
    ]
    plan = step(
        *("plan", "generate", "plan", "--generator", "{{ params.generator }}", *rows),
        doc_md="Which FAKE images are to be drawn: class, prompt and seed of each, in shards.",
    )
    generate = mapped_step(
        *("generate", "generate", shards(plan.output["plan"], plan.output["rows"], plan.output["shards"])),
        pool=SHARD_POOL,
        doc_md="Draws some shards; those that are there already are skipped.",
    )
    real = step("collect_real", "data", "collect", "--label", "REAL", *rows, doc_md="REAL images into the store.")
    assemble = step(
        *("assemble", "data", "build", "--real", real.output["rows_url"], "--fake", plan.output["rows_url"]),
        *("--seed", "{{ params.seed }}"),
        doc_md="Both labels become one immutable dataset version: train, validation and test, no image in two of them.",
    )
    validate = step(
        *("validate", "validate", "--dataset", assemble.output["dataset_version"]),
        doc_md="What fails here is not published; the report says why.",
    )
    generate >> assemble
    publish(validate.output["dataset_version"])


@task(doc_md="Who draws what: commands for the tasks of `generate`.")
def shards(plan: str, rows: int, count: int, *, params: Any = None) -> list[list[str]]:
    """Arguments of a `cifake generate run` for about `rows_per_task` images each, whole shards of the plan."""
    tasks = max(1, min(count, round(rows / params["rows_per_task"])))
    return [
        ["generate", "run", "--plan", plan, *(f"--shard={number}" for number in range(first, count, tasks))]
        for first in range(tasks)
    ]


@task(outlets=[DATASET], doc_md="Tells the DAGs that wait for a dataset version.")
def publish(dataset_version: str, *, outlet_events: Any = None) -> None:
    """Emit the dataset asset."""
    outlet_events[DATASET].extra = {"dataset_version": dataset_version}


cifake_dataset()
