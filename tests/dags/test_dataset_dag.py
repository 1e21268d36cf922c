"""The DAG that makes datasets: as Airflow reads it, and run by `airflow dags test`."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from cifake_core.images import dataset
from cifake_core.storage import Store
from tests import airflow_runs

pytestmark = pytest.mark.timeout(1500)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory, real_data: str | None) -> dict[str, str]:
    """Of an Airflow with a folder of its own, and of the steps it runs."""
    folder = tmp_path_factory.mktemp("dataset")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CIFAKE_")}
    environment |= {"CIFAKE_DATA": real_data} if real_data else {}
    return airflow_runs.environment(folder / "airflow", environment, CIFAKE_HOME=str(folder / "home"))


def test_nothing_is_published_before_it_was_validated(dags: dict[str, Any]) -> None:
    order = dags["cifake_dataset"]["order"]
    assert order["plan"] == ["assemble", "shards"]
    assert order["shards"] == ["generate"]
    assert order["generate"] == order["collect_real"] == ["assemble"]
    assert order["assemble"] == ["validate"]
    assert order["validate"] == ["publish"]
    assert dags["cifake_dataset"]["outlets"] == {"publish": ["cifake_dataset"]}


def test_a_pool_bounds_how_many_tasks_draw_at_once(
    dags: dict[str, Any], tmp_path: Path, airflow_database: Path
) -> None:
    pool = dags["cifake_dataset"]["mapped"]["generate"]
    shutil.copy(airflow_database, tmp_path)
    seen = []
    for slots in ("3", "5"):  # the second scheduler finds the first one's pool
        environment = airflow_runs.environment(tmp_path, CIFAKE_SHARDS_AT_ONCE=slots)
        code, said = airflow_runs.run(environment, "airflow", "scheduler", "--num-runs", "1", "--skip-serve-logs")
        assert code == 0, said[-3000:]
        _, said = airflow_runs.run(environment, "airflow", "pools", "list", "--output", "json")
        pools = {each["pool"]: each for each in json.loads(said[said.index("[{") : said.rindex("]") + 1])}
        seen.append((pools[pool]["slots"], pools[pool]["include_deferred"]))
    assert seen == [("3", "True")] * 2


def test_a_run_publishes_a_validated_version_of_generated_and_real_images(
    environment: dict[str, str], real_data: str | None, airflow_database: Path
) -> None:
    if not real_data:
        pytest.skip("the embedded generator draws CIFAR-10's classes, and there are no real images of them here")
    conf = {"generator": "embedded", "train_rows": 400, "test_rows": 100, "rows_per_task": 90}
    code, said = airflow_runs.dags_test(environment, "cifake_dataset", conf, airflow_database)
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
