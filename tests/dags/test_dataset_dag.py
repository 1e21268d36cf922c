"""The DAG that makes datasets: as Airflow reads it, and run by `airflow dags test`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from cifake_core.images import dataset
from cifake_core.storage import Store
from tests import airflow_runs

pytestmark = pytest.mark.timeout(1500)
LOAD = """
import json, sys
sys.path.insert(0, "dags")  # as Airflow does for its dags folder
from airflow.dag_processing.dagbag import DagBag
bag = DagBag("dags")
dag = bag.dags.get("cifake_dataset") or sys.exit(str(bag.import_errors))
refused = []
for name, value in json.loads(sys.argv[1]):
    try:
        dag.params.get_param(name).resolve(value)
    except Exception:
        refused.append([name, value])
generate = dag.get_task("generate")
print("RESULT " + json.dumps({
    "order": {t.task_id: sorted(t.downstream_task_ids) for t in dag.tasks},
    "documented": [t.task_id for t in dag.tasks if t.doc_md],
    "outlets": {t.task_id: [a.name for a in t.outlets] for t in dag.tasks if t.outlets},
    "mapped": generate.is_mapped, "at_once": generate.max_active_tis_per_dagrun,
    "refused": refused,
}))
"""
BAD = [["generator", "x; ls"], ["generator", "--help"], ["train_rows", 21], ["test_rows", 0], ["seed", -1]]
GOOD = [["generator", "stable-diffusion-v1-4"], ["train_rows", 100_000]]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory, real_data: str | None) -> dict[str, str]:
    """Of an Airflow with a folder of its own, and of the steps it runs."""
    folder = tmp_path_factory.mktemp("dataset")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CIFAKE_")}
    environment |= {"CIFAKE_DATA": real_data} if real_data else {}
    steps = {"CIFAKE_HOME": str(folder / "home"), "CIFAKE_SHARDS_AT_ONCE": "3"}
    return airflow_runs.environment(folder / "airflow", environment, **steps)


@pytest.fixture(scope="module")
def loaded(environment: dict[str, str]) -> dict[str, Any]:
    return airflow_runs.load(environment, LOAD, json.dumps(BAD + GOOD))


def test_nothing_is_published_before_it_was_validated(loaded: dict[str, Any]) -> None:
    order = loaded["order"]
    assert order["plan"] == ["assemble", "shards"]
    assert order["shards"] == ["generate"]
    assert order["generate"] == order["collect_real"] == ["assemble"]
    assert order["assemble"] == ["validate"]
    assert order["validate"] == ["publish"]
    assert loaded["outlets"] == {"publish": ["cifake_dataset"]}
    assert sorted(loaded["documented"]) == sorted(order)


def test_shards_are_drawn_by_as_many_tasks_at_once_as_is_set(loaded: dict[str, Any]) -> None:
    assert loaded["mapped"]
    assert loaded["at_once"] == 3


def test_params_that_no_verb_could_take_are_refused_before_a_run(loaded: dict[str, Any]) -> None:
    assert loaded["refused"] == BAD


def test_a_run_publishes_a_validated_version_of_generated_and_real_images(
    environment: dict[str, str], real_data: str | None
) -> None:
    if not real_data:
        pytest.skip("the embedded generator draws CIFAR-10's classes, and there are no real images of them here")
    conf = {"generator": "embedded", "train_rows": 400, "test_rows": 100, "rows_per_task": 90}
    code, said = airflow_runs.dags_test(environment, "cifake_dataset", conf)
    assert code == 0, said[-3000:]

    home = Path(environment["CIFAKE_HOME"])
    store = Store((home / "store").as_uri())
    [version] = dataset.versions(store)
    manifest = dataset.load(store, version)
    assert manifest.rows == 500
    assert sorted(set().union(*manifest.generators.values())) == ["embedded"]
    results = {path.stem: json.loads(path.read_text()) for path in home.glob("store/results/cifake_dataset/*/*.json")}
    drawn = [result for name, result in results.items() if name.startswith("generate-")]
    assert sorted(len(result["shards"]) for result in drawn) == [6, 7, 7]
    assert results["plan"]["rows"] == sum(result["rows"] for result in drawn) == 250
    assert (results["validate"]["success"], results["validate"]["dataset_version"]) == (True, version)
