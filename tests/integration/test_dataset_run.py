"""The DAG that makes datasets, run by `airflow dags test`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from cifake_core.images import dataset
from cifake_core.storage import Store
from tests import airflow_runs


@pytest.mark.timeout(1500)
def test_a_run_publishes_a_validated_version_of_generated_and_real_images(
    tmp_path: Path, real_data: str | None, airflow_database: Path
) -> None:
    if not real_data:
        pytest.skip("the embedded generator draws CIFAR-10's classes, and there are no real images of them here")
    ours = {name: value for name, value in os.environ.items() if not name.startswith("CIFAKE_")}
    home = tmp_path / "home"
    environment = airflow_runs.environment(
        tmp_path / "airflow", {**ours, "CIFAKE_DATA": real_data}, CIFAKE_HOME=str(home)
    )
    conf = {"generator": "embedded", "train_rows": 400, "test_rows": 100, "rows_per_task": 90}
    code, said = airflow_runs.dags_test(environment, "cifake_dataset", conf, airflow_database)
    assert code == 0, said[-3000:]

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
