"""From real images to a served, promoted detector."""

from __future__ import annotations

from airflow.sdk import Param, dag, task
from steps import step

from cifake_core.settings import settings

DOC = """
### From real images to a served, promoted detector

collect real images → generate fake ones → assemble a dataset version → validate it → train → evaluate → promote, if
the gate allows → see that the service answers with the champion.

Each task runs one `cifake` verb, so each can be run by hand just as well: the command is in the task's log. Steps are
safe to run again: clear a failed task and the run goes on from there. The rows counted are both labels together.
"""

NAME = {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]*$"}


@dag(
    schedule=None,
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,
    tags=["cifake", "training"],
    doc_md=DOC,
    params={
        "train_rows": Param(20_000, type="integer", minimum=20, multipleOf=2, description="Rows to train on."),
        "test_rows": Param(4_000, type="integer", minimum=20, multipleOf=2, description="Rows to test on."),
        "generator": Param(
            "cifake" if settings().data else "resample",
            **NAME,
            description="Who makes the FAKE images; `cifake` reads the published ones from CIFAKE_DATA.",
            examples=["cifake", "embedded", "resample", "stable-diffusion-v1-4"],
        ),
        "topology": Param("seed", **NAME, description="Shape of the network.", examples=["seed", "bird-lotfi"]),
        "epochs": Param(5, type="integer", minimum=1, maximum=1000, description="Passes over the training rows."),
        "seed": Param(0, type="integer", minimum=0, description="Decides rows, their order, and initial weights."),
    },
)
def cifake_pipeline() -> None:
    """The tasks, in order."""
    rows = [
        *("--train-rows", "{{ params.train_rows // 2 }}", "--test-rows", "{{ params.test_rows // 2 }}"),
        *("--seed", "{{ params.seed }}"),
    ]
    real = step("collect_real", "data", "collect", "--label", "REAL", *rows, doc_md="REAL images into the store.")
    fake = step(
        "generate", "generate", "--generator", "{{ params.generator }}", *rows, doc_md="FAKE images into the store."
    )
    assemble = step(
        *("assemble", "data", "build", "--real", real.output["rows_url"], "--fake", fake.output["rows_url"]),
        *("--seed", "{{ params.seed }}"),
        doc_md="Both labels become one immutable dataset version: train, validation and test, no image in two of them.",
    )
    validate = step(
        *("validate", "validate", "--dataset", assemble.output["dataset_version"]),
        doc_md="Nothing is trained on data that fails here; the report says why.",
    )
    train = step(
        *("train", "train", "--dataset", validate.output["dataset_version"], "--topology", "{{ params.topology }}"),
        *("--epochs", "{{ params.epochs }}", "--seed", "{{ params.seed }}"),
        doc_md="Trains, exports and registers a new version of `cifake-detector`; tracked in MLflow.",
    )
    evaluate = step(
        *("evaluate", "evaluate", "--version", train.output["model_version"]),
        doc_md="Scores the new version on the test split; report in its MLflow run.",
    )
    promote = step(
        *(
            "promote",
            "promote",
            "--version",
            train.output["model_version"],
            "--reason",
            "{{ dag.dag_id }} {{ run_id }}",
        ),
        doc_md="Moves the alias `champion` if the gate lets the new version pass; otherwise it becomes `challenger`.",
    )
    evaluate >> promote >> answers_with(promote.output["champion"])  # type: ignore[operator]


@task.sensor(poke_interval=3, timeout=300, doc_md="The alias is the deployment switch: the service must follow it.")
def answers_with(champion: int | None) -> bool:
    """Does the service answer an image with this version?"""
    import io

    from airflow.sdk.exceptions import AirflowFailException
    from PIL import Image

    from cifake_core.client.remote import DetectorClient
    from cifake_core.errors import ServiceError

    if champion is None:
        raise AirflowFailException("there is no champion: the gate refused the first version, see the log of promote")
    image = io.BytesIO()
    Image.linear_gradient("L").resize((32, 32)).convert("RGB").save(image, "JPEG")
    try:
        with DetectorClient() as service:
            answer = service.classify(image.getvalue())
    except ServiceError as exc:
        print(exc)
        return False
    print(f"version {answer.model.version} answers; the champion is {champion}")
    return answer.model.version == champion


cifake_pipeline()
