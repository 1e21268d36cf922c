"""The DAG that makes datasets, as Airflow reads it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests import airflow_runs

pytestmark = pytest.mark.timeout(1500)


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
