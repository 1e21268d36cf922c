"""The pipeline as Airflow itself reads it."""

from __future__ import annotations

import json

import pytest

from tests import airflow_runs

LOAD = """
import json, sys
sys.path.insert(0, "dags")  # as Airflow does for its dags folder
from airflow.dag_processing.dagbag import DagBag
bag = DagBag("dags")
dag = bag.dags.get("cifake_pipeline") or sys.exit(str(bag.import_errors))
refused = []
for name, value in json.loads(sys.argv[1]):
    try:
        dag.params.get_param(name).resolve(value)
    except Exception:
        refused.append([name, value])
print("RESULT " + json.dumps({
    "errors": bag.import_errors,
    "order": {t.task_id: sorted(t.downstream_task_ids) for t in dag.tasks},
    "documented": [t.task_id for t in dag.tasks if t.doc_md],
    "doc": bool(dag.doc_md), "tags": sorted(dag.tags), "refused": refused,
}))
"""
BAD = [
    ["generator", "cifake; rm -rf /"],
    ["generator", "--help"],
    ["topology", "../seed"],
    ["epochs", 0],
    ["train_rows", 21],
    ["test_rows", -2],
    ["seed", -1],
]
GOOD = [["generator", "stable-diffusion-v1-4"], ["topology", "bird-lotfi"], ["epochs", 50], ["train_rows", 100_000]]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    environment = airflow_runs.environment(tmp_path_factory.mktemp("airflow"))
    return airflow_runs.load(environment, LOAD, json.dumps(BAD + GOOD))


def test_every_dag_file_loads(loaded):
    assert loaded["errors"] == {}


def test_nothing_is_trained_before_validation_nor_promoted_before_evaluation(loaded):
    order = loaded["order"]
    assert "assemble" in order["collect_real"]
    assert "assemble" in order["generate"]
    assert "validate" in order["assemble"]
    assert "train" in order["validate"]
    assert "train" not in order["assemble"]
    assert "promote" in order["evaluate"]
    assert order["promote"] == ["answers_with"]


def test_the_dag_and_its_tasks_explain_themselves(loaded):
    assert loaded["doc"]
    assert "cifake" in loaded["tags"]
    assert sorted(loaded["documented"]) == sorted(loaded["order"])


def test_params_that_no_verb_could_take_are_refused_before_a_run(loaded):
    assert loaded["refused"] == BAD
