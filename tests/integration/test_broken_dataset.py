"""`airflow dags test` on a dataset that must not be trained on: the run stops at the gate, nothing else is touched."""

from __future__ import annotations

import hashlib
import io
import re
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cifake_core.images import codec
from cifake_core.mlflow_client import client
from cifake_core.settings import CLASSES, MODEL_NAME, settings
from tests import airflow_runs


def _side(rows: int, rng: np.random.Generator) -> pa.Table:
    """Images in CIFAKE's hub layout, the FAKE ones so dark that brightness alone tells the label."""
    made = []
    for number in range(rows):
        label, kind = number % 2, (number // 2) % len(CLASSES)
        pixels = rng.integers(0, 256, (4, 4, 3), np.uint8).repeat(8, 0).repeat(8, 1)
        name = f"{number}.jpg" if kind == 0 else f"{number} ({kind + 1}).jpg"
        made.append({"image": {"bytes": codec.encode(pixels if label else pixels // 3), "path": name}, "label": label})
    return pa.Table.from_pylist(made)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for side, rows in (("train", 400), ("test", 100)):
        buffer = io.BytesIO()
        pq.write_table(_side(rows, rng), buffer)
        (folder / f"{side}.parquet").write_bytes(buffer.getvalue())
    return folder


@pytest.mark.usefixtures("migrated")
def test_the_run_stops_at_the_gate_with_the_report_linked_and_mlflow_untouched(
    source: Path, home: Path, tmp_path: Path, airflow_database: Path
):
    api = client()  # a registry with a champion, to be left as it is
    run = api.create_run("0").info.run_id
    api.create_registered_model(MODEL_NAME)
    api.create_model_version(MODEL_NAME, f"runs:/{run}/detector", run)
    api.set_registered_model_alias(MODEL_NAME, "champion", "1")
    database = Path(settings().tracking_uri.removeprefix("sqlite:///"))
    before = hashlib.sha256(database.read_bytes()).hexdigest()

    environment = airflow_runs.environment(tmp_path / "airflow", CIFAKE_DATA=str(source))
    conf = {"train_rows": 400, "test_rows": 100, "generator": "cifake"}
    code, said = airflow_runs.dags_test(environment, "cifake_pipeline", conf, airflow_database)

    assert code != 0, said[-3000:]
    refusal = re.search(
        r"dataset version (\w{16}) is refused by [^;]*shortcuts\.not_too_easy[^;]*; see (\S+report\.html)", said
    )
    assert refusal, said[-3000:]
    page = Path(urlsplit(refusal[2]).path).read_text()
    assert "refused" in page
    assert "shortcuts.not_too_easy" in page
    assert {file.stem for file in (home / "store/results").rglob("*.json")} == {
        "collect_real",
        "generate",
        "assemble",
        "validate",
    }
    assert not (home / "training").exists()
    assert hashlib.sha256(database.read_bytes()).hexdigest() == before
    assert not (home / "mlartifacts").exists()
