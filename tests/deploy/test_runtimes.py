"""The same DAGs, as Airflow itself loads them, under each runtime."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import airflow_runs

LOAD = """
import json, sys
sys.path.insert(0, "dags")  # as Airflow does for its dags folder
from airflow.dag_processing.dagbag import DagBag
bag = DagBag("dags")
tasks = {type(t).__name__ for d in bag.dags.values() for t in d.tasks}
print("RESULT " + json.dumps({"errors": bag.import_errors, "dags": sorted(bag.dags), "tasks": sorted(tasks)}))
"""


@pytest.mark.parametrize(
    ("runtime", "operator"), [("local", "LocalStep"), ("docker", "StepContainer"), ("kubernetes", "StepPod")]
)
def test_dags_load_under_every_runtime(tmp_path: Path, runtime: str, operator: str) -> None:
    if not airflow_runs.BIN.exists():
        pytest.skip("no Airflow environment: run `scripts/setup airflow`")
    found = airflow_runs.load(airflow_runs.environment(tmp_path, CIFAKE_RUNTIME=runtime), LOAD)
    assert found["errors"] == {}
    assert "cifake_pipeline" in found["dags"]
    assert operator in found["tasks"]
    assert {"LocalStep", "StepContainer", "StepPod"} & set(found["tasks"]) == {operator}
