"""The DAGs around the registry, as Airflow itself reads them: order, triggers, params, and what their steps run."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests import airflow_runs

DAGS = ("cifake_training", "cifake_promote", "cifake_rollout")
LOAD = """
import json, sys
sys.path.insert(0, "dags")  # as Airflow does for its dags folder
from airflow.dag_processing.dagbag import DagBag
bag = DagBag("dags")
found = {}
for name, tried in json.loads(sys.argv[1]).items():
    dag = bag.dags.get(name) or sys.exit(str(bag.import_errors))
    refused = []
    for param, value in tried:
        try:
            dag.params.get_param(param).resolve(value)
        except Exception:
            refused.append([param, value])
    found[name] = {
        "order": {t.task_id: sorted(t.downstream_task_ids) for t in dag.tasks},
        "documented": bool(dag.doc_md) and all(t.doc_md for t in dag.tasks),
        "runs": {t.task_id: [str(a) for a in t.arguments] for t in dag.tasks if hasattr(t, "arguments")},
        "outlets": {t.task_id: [a.name for a in t.outlets] for t in dag.tasks if t.outlets},
        "schedule": [a.name for a in getattr(dag.timetable.asset_condition, "objects", [])],
        "one_at_a_time": dag.max_active_runs == 1,
        "refused": refused,
    }
print("RESULT " + json.dumps(found))
"""
TRIED: dict[str, list[list[Any]]] = {
    "cifake_training": [["dataset_version", "../x"], ["epochs", 0], ["topology", "--help"], ["dataset_version", ""]],
    "cifake_promote": [["version", "--force"], ["reason", ""], ["reason", "--x"], ["force", "yes"], ["version", "4"]],
    "cifake_rollout": [["version", "champion; ls"], ["timeout", 0], ["version", "12"]],
}


@pytest.fixture(scope="module")
def dags(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    environment = airflow_runs.environment(tmp_path_factory.mktemp("airflow"))
    return airflow_runs.load(environment, LOAD, json.dumps(TRIED))


def test_a_published_dataset_starts_a_training_and_a_champion_its_rollout(dags: dict[str, Any]) -> None:
    assert {name: dags[name]["schedule"] for name in DAGS} == {
        "cifake_training": ["cifake_dataset"],
        "cifake_promote": [],
        "cifake_rollout": ["cifake_champion"],
    }


def test_only_a_promotion_tells_of_a_champion(dags: dict[str, Any]) -> None:
    said = {name: dags[name]["outlets"] for name in DAGS}
    assert said["cifake_training"] == said["cifake_promote"] == {"announce": ["cifake_champion"]}
    assert said["cifake_rollout"] == {}  # a rollback must not start another rollout
    for name in ("cifake_training", "cifake_promote"):
        assert "announce" in dags[name]["order"]["promote"]


def test_nothing_is_promoted_before_it_was_evaluated(dags: dict[str, Any]) -> None:
    order = dags["cifake_training"]["order"]
    assert order["which_dataset"] == ["train"]
    assert "evaluate" in order["train"]
    assert order["evaluate"] == ["promote"]


def test_steps_run_the_verbs_they_name(dags: dict[str, Any]) -> None:
    runs = {f"{name}.{task}": line[0] for name in DAGS for task, line in dags[name]["runs"].items()}
    assert runs == {
        "cifake_training.train": "train",
        "cifake_training.evaluate": "evaluate",
        "cifake_training.promote": "promote",
        "cifake_promote.promote": "promote",
        "cifake_promote.verify": "registry",
        "cifake_rollout.verify": "registry",
        "cifake_rollout.rollout": "rollout",
    }
    assert "--roll-back" in dags["cifake_rollout"]["runs"]["rollout"]


@pytest.mark.parametrize("name", DAGS)
def test_a_dag_explains_itself_and_runs_one_at_a_time(dags: dict[str, Any], name: str) -> None:
    assert dags[name]["documented"]
    assert dags[name]["one_at_a_time"]


@pytest.mark.parametrize("name", DAGS)
def test_params_that_no_verb_could_take_are_refused_before_a_run(dags: dict[str, Any], name: str) -> None:
    assert dags[name]["refused"] == TRIED[name][:-1]
