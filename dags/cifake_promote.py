"""Promote a version by hand."""

from __future__ import annotations

from airflow.sdk import Param, dag
from assets import announce
from steps import step

DOC = """
### Promote a version by hand

Judges a registered version against the champion, exactly as after a training. `force` overrules the gate: it is
recorded with the reason, and shown by `cifake registry verify` from then on.

`verify` fails when the champion is not the one that was decided on: somebody moved the alias in MLflow.
"""


@dag(
    schedule=None,
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,
    tags=["cifake", "registry"],
    doc_md=DOC,
    params={
        "version": Param(
            "challenger",
            type="string",
            pattern="^[A-Za-z0-9][A-Za-z0-9_.-]*$",
            description="The candidate: a version's number, or an alias.",
            examples=["challenger", "4"],
        ),
        "reason": Param(type="string", minLength=1, pattern="^[^-]", description="Why; recorded with the decision."),
        "dataset_version": Param(
            "",
            type="string",
            pattern="^([0-9a-f]{16})?$",
            description="Whose test split decides; empty: the one the candidate was trained on.",
        ),
        "force": Param(False, type="boolean", description="Promote although checks fail. Loud, and recorded."),
    },
)
def cifake_promote() -> None:
    """The tasks, in order."""
    promote = step(
        *("promote", "promote", "--version", "{{ params.version }}", "--reason", "{{ params.reason }}"),
        *("--dataset", "{{ params.dataset_version }}", "{{ '--force' if params.force else '--no-force' }}"),
        doc_md="Moves the alias `champion` if the gate lets the version pass; otherwise it becomes `challenger`.",
    )
    verify = step("verify", "registry", "verify", doc_md="Is what is served what was decided?")
    promote >> verify  # type: ignore[operator]
    announce(promote.output["promoted"], promote.output["champion"])


cifake_promote()
