"""A training's run says what was found in its data, and shows the report."""

from __future__ import annotations

import pytest

from cifake_core.mlflow_client import client, experiment_id
from cifake_core.storage import Store
from cifake_core.validation.link import link


@pytest.fixture
def run_id(migrated) -> str:
    api = client()
    return api.create_run(experiment_id()).info.run_id


def test_a_run_is_tagged_with_the_verdict_and_holds_the_page(run_id, clean, write, run, store: Store, tmp_path):
    import mlflow

    manifest = write(clean())
    verdict = run(manifest, "shards")
    tags = link(store, manifest.version, run_id)
    assert tags == {"validation": "accepted", "validation_report": verdict.report_url}
    assert tags.items() <= client().get_run(run_id).data.tags.items()
    page = mlflow.artifacts.load_text(f"runs:/{run_id}/validation/report.html")
    assert manifest.version in page


def test_a_run_on_data_that_nobody_validated_says_so(run_id, store: Store):
    assert link(store, "0123456789abcdef", run_id) == {"validation": "none"}
    store.write("validation/0123456789abcdef/result.json", b"{}")
    assert link(store, "0123456789abcdef", run_id) == {"validation": "none"}
    assert client().get_run(run_id).data.tags["validation"] == "none"
    assert client().list_artifacts(run_id) == []
