"""All DAGs as Airflow itself reads them, once for the session: its start takes many seconds."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests import airflow_runs

LOAD = """
import json, sys
sys.path.insert(0, "dags")  # as Airflow does for its dags folder
from airflow.dag_processing.dagbag import DagBag
bag = DagBag("dags")
tried = json.loads(sys.argv[1])
found = {}
for name, dag in bag.dags.items():
    refused = []
    for param, value in tried.get(name, []):
        try:
            dag.params.get_param(param).resolve(value)
        except Exception:
            refused.append([param, value])
    found[name] = {
        "order": {t.task_id: sorted(t.downstream_task_ids) for t in dag.tasks},
        "undocumented": [t.task_id for t in dag.tasks if not t.doc_md],
        "doc": bool(dag.doc_md),
        "tags": sorted(dag.tags),
        "runs": {t.task_id: [str(a) for a in t.arguments] for t in dag.tasks if hasattr(t, "arguments")},
        "outlets": {t.task_id: [a.name for a in t.outlets] for t in dag.tasks if t.outlets},
        "schedule": [a.name for a in getattr(getattr(dag.timetable, "asset_condition", None), "objects", [])],
        "one_at_a_time": dag.max_active_runs == 1,
        "mapped": {t.task_id: t.pool for t in dag.tasks if t.is_mapped},
        "refused": refused,
    }
print("RESULT " + json.dumps({"errors": bag.import_errors, "dags": found}))
"""
# DAG → params and values of them: what no verb could take, and what one can.
BAD: dict[str, list[list[Any]]] = {
    "cifake_pipeline": [
        ["generator", "cifake; rm -rf /"],
        ["generator", "--help"],
        ["topology", "../seed"],
        ["epochs", 0],
        ["train_rows", 21],
        ["test_rows", -2],
        ["seed", -1],
    ],
    "cifake_dataset": [
        ["generator", "x; ls"],
        ["generator", "--help"],
        ["train_rows", 21],
        ["test_rows", 0],
        ["seed", -1],
    ],
    "cifake_training": [["dataset_version", "../x"], ["epochs", 0], ["topology", "--help"]],
    "cifake_promote": [["version", "--force"], ["reason", ""], ["reason", "--x"], ["force", "yes"]],
    "cifake_rollout": [["version", "champion; ls"], ["timeout", 0]],
    "cifake_harden": [["images", "--evil"], ["images", ""], ["generator", "x; ls"], ["train_rows", 0], ["seed", -1]],
    "cifake_monitoring": [["images", "--evil"], ["generator", "--help"]],
}
GOOD: dict[str, list[list[Any]]] = {
    "cifake_pipeline": [
        ["generator", "stable-diffusion-v1-4"],
        ["topology", "bird-lotfi"],
        ["epochs", 50],
        ["train_rows", 100_000],
    ],
    "cifake_dataset": [["generator", "stable-diffusion-v1-4"], ["train_rows", 100_000]],
    "cifake_training": [["dataset_version", ""]],
    "cifake_promote": [["version", "4"]],
    "cifake_rollout": [["version", "12"]],
    "cifake_harden": [["images", "s3://bucket/new-generator/"], ["generator", "ddpm"]],
    "cifake_monitoring": [["images", ""], ["images", "/data/tiles.parquet"]],
}


@pytest.fixture(scope="session")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """`errors`: what Airflow could not read; `dags`: DAG → what it read."""
    folder = tmp_path_factory.mktemp("airflow")
    tried = json.dumps({name: BAD[name] + GOOD[name] for name in BAD})
    return airflow_runs.load(airflow_runs.environment(folder), LOAD, tried)


@pytest.fixture(scope="session")
def dags(loaded: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """DAG → what Airflow read of it."""
    found: dict[str, dict[str, Any]] = loaded["dags"]
    return found
