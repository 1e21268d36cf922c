"""The DAG that sweeps a grid, run by `airflow dags test`: each network once, the best is challenger."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cifake_core.registry import artifacts
from cifake_core.settings import settings
from cifake_core.storage import Store
from tests import airflow_runs

if TYPE_CHECKING:
    from cifake_core.images.dataset import Manifest

GRID = """
extractors: {filters: [2], convolutions: [1]}
heads: {units: [3], dense: [1]}
options: {epochs: 1, batch_size: 64}
"""


@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("migrated")
def test_each_network_is_trained_once_and_the_best_becomes_challenger(
    home: Path, tmp_path: Path, make_dataset: Callable[..., Manifest], airflow_database: Path
) -> None:
    from cifake_core.training import sweep

    grid = tmp_path / "grid.yaml"
    grid.write_text(GRID)
    settings.cache_clear()
    manifest = make_dataset(Store(), 200, 100)
    conf = {"dataset_version": manifest.version, "grid": str(grid)}
    environment = airflow_runs.environment(tmp_path / "airflow")
    code, said = airflow_runs.dags_test(environment, "cifake_sweep", conf, airflow_database)
    assert code == 0, said[-3000:]
    settings.cache_clear()
    part = sweep.start(Store(), manifest.version, sweep.load_grid(str(grid)))
    members = sweep.members(part.sweep)
    assert len(members) == 2  # an extractor, and a head on it
    assert artifacts.resolve("challenger").run_id == members[0].run_id
