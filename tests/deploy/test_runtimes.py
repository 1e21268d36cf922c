"""The same DAGs, as Airflow itself loads them, under each runtime."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
PYTHON = CHECKOUT / ".venv-airflow/bin/python"
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
    if not PYTHON.exists():
        pytest.skip("no Airflow environment: run `scripts/setup airflow`")
    environment = {
        **os.environ,
        "AIRFLOW_HOME": str(tmp_path),
        "CIFAKE_RUNTIME": runtime,
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT": "150",  # a busy machine
    }
    done = subprocess.run(
        [PYTHON, "-c", LOAD], cwd=CHECKOUT, env=environment, capture_output=True, text=True, timeout=180
    )
    line = next((x for x in done.stdout.splitlines() if x.startswith("RESULT ")), None)
    assert line, done.stderr[-2000:]
    found = json.loads(line.removeprefix("RESULT "))
    assert found["errors"] == {}
    assert "cifake_pipeline" in found["dags"]
    assert operator in found["tasks"]
    assert {"LocalStep", "StepContainer", "StepPod"} & set(found["tasks"]) == {operator}
