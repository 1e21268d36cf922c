"""From a training's run in MLflow to what was found in its data."""

from __future__ import annotations

from cifake_core.errors import DatasetError
from cifake_core.mlflow_client import client, registry_errors
from cifake_core.storage import Store
from cifake_core.validation import result


def link(store: Store, version: str, run_id: str) -> dict[str, str]:
    """Tag a run with its dataset version's validation, and put the report among its artefacts; returns the tags.

    `validation` is accepted, refused or none; `validation_report` the report's URL, where there is one.

    Raises:
        RegistryError: MLflow is unreachable.
    """
    try:
        found = result.load(store, version)
    except DatasetError:  # another cifake's result: whether it counts is for the gate to say
        found = None
    tags = {"validation": "none"}
    if found:
        tags = {"validation": "accepted" if found.success else "refused", "validation_report": found.report_url}
    with registry_errors("link the validation"):
        api = client()
        for name, value in tags.items():
            api.set_tag(run_id, name, value)
        page = f"validation/{version}/report.html"
        if found and store.exists(page):
            api.log_text(run_id, store.read(page).decode(), "validation/report.html")
    return tags
