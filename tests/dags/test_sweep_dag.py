"""The DAG that sweeps a grid, run by `airflow dags test`: each network once, the best is challenger."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cifake_core.registry import artifacts
from cifake_core.settings import settings
from cifake_core.storage import Store
from cifake_core.training import sweep

if TYPE_CHECKING:
    from cifake_core.images.dataset import Manifest

CHECKOUT = Path(__file__).resolve().parents[2]
GRID = """
extractors: {filters: [2, 4], convolutions: [1]}
heads: {units: [3], dense: [1]}
options: {epochs: 1, batch_size: 64}
"""


@pytest.mark.timeout(1200)
def test_each_network_is_trained_once_and_the_best_becomes_challenger(
    home: Path, tmp_path: Path, make_dataset: Callable[..., Manifest]
) -> None:
    grid = tmp_path / "grid.yaml"
    grid.write_text(GRID)
    settings.cache_clear()
    manifest = make_dataset(Store(), 200, 100)
    conf = {"dataset_version": manifest.version, "grid": str(grid)}
    environment = {
        **os.environ,
        "AIRFLOW_HOME": str(tmp_path / "airflow"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(CHECKOUT / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT": "150",  # a busy machine
    }
    airflow = CHECKOUT / ".venv-airflow/bin/airflow"
    for command in (["db", "migrate"], ["dags", "test", "cifake_sweep", "--conf", json.dumps(conf)]):
        done = subprocess.run([airflow, *command], env=environment, capture_output=True, text=True, timeout=1100)
        assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    settings.cache_clear()
    part = sweep.start(Store(), manifest.version, sweep.load_grid(str(grid)))
    members = sweep.members(part.sweep)
    assert len(members) == 3
    assert artifacts.resolve("challenger").run_id == members[0].run_id
