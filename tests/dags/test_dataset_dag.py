"""The DAG that makes datasets: as Airflow reads it, and run by `airflow dags test`."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cifake_core.images import dataset
from cifake_core.storage import Store

CHECKOUT = Path(__file__).resolve().parents[2]
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
    return environment | {
        "CIFAKE_HOME": str(folder / "home"),
        "CIFAKE_SHARDS_AT_ONCE": "3",
        "AIRFLOW_HOME": str(folder / "airflow"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(CHECKOUT / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT": "150",  # a busy machine
    }


def airflow(environment: dict[str, str], program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(CHECKOUT / ".venv-airflow/bin" / program), *arguments]
    return subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, timeout=1200)


@pytest.fixture(scope="module")
def loaded(environment: dict[str, str]) -> dict[str, Any]:
    done = airflow(environment, "python", "-c", LOAD, json.dumps(BAD + GOOD))
    line = next((each for each in done.stdout.splitlines() if each.startswith("RESULT ")), None)
    assert line, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(line.removeprefix("RESULT "))
    return found


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
    migrated = airflow(environment, "airflow", "db", "migrate")
    assert migrated.returncode == 0, migrated.stderr[-2000:]
    conf = json.dumps({"generator": "embedded", "train_rows": 400, "test_rows": 100, "rows_per_task": 90})
    done = airflow(environment, "airflow", "dags", "test", "cifake_dataset", "--conf", conf)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]

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
