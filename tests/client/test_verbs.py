"""classify, explain, serve and status as a user runs them, on a registry in SQLite."""

from __future__ import annotations

import csv
import io
import json
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from cifake_core.client import verbs
from cifake_core.settings import settings
from tests.tiny_bundle import write_tiny_bundle

# MLflow's own queries on SQLite, with the SQLAlchemy that this environment resolves to.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")


@pytest.fixture(scope="session")
def registered(tmp_path_factory: pytest.TempPathFactory, mlflow_database: Path) -> Path:
    """A CIFAKE_HOME whose registry has one champion."""
    import mlflow

    home = tmp_path_factory.mktemp("registered")
    shutil.copy(mlflow_database, home)
    api = mlflow.MlflowClient(f"sqlite:///{home}/mlflow.db")
    experiment = api.create_experiment("cifake", artifact_location=(home / "mlartifacts").as_uri())
    run = api.create_run(experiment)
    api.log_artifacts(run.info.run_id, str(write_tiny_bundle(home / "detector")), "detector")
    api.set_terminated(run.info.run_id)
    api.create_registered_model("cifake-detector")
    made = api.create_model_version(
        "cifake-detector", f"runs:/{run.info.run_id}/detector", run.info.run_id, tags={"dataset_version": "0" * 16}
    )
    api.set_registered_model_alias("cifake-detector", "champion", made.version)
    return home


@pytest.fixture
def champion(registered: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This test's own CIFAKE_HOME, its registry the shared one."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{registered}/mlflow.db")
    settings.cache_clear()


@pytest.fixture
def photos(tmp_path: Path, rng: np.random.Generator) -> Path:
    """A folder with two images, one of them in a subfolder, a hidden one, and a text file that is no image."""
    folder = tmp_path / "photos"
    for name in ("a.png", "sub/b.jpg", ".hidden/c.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).save(folder / name)
    (folder / "notes.txt").write_text("not an image")
    return folder


def run(command: str, *arguments: object) -> Result:
    return CliRunner().invoke(getattr(verbs, command), [str(a) for a in arguments], catch_exceptions=False)


@pytest.mark.usefixtures("champion")
def test_classify_csv_has_a_row_per_image_of_a_folder(photos: Path) -> None:
    result = run("classify", photos, "--format", "csv")
    assert result.exit_code == 0, result.stderr
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert result.stdout.startswith("path,label,probability_real,")
    assert [row["path"] for row in rows] == [str(photos / "a.png"), str(photos / "sub/b.jpg")]
    for row in rows:
        assert row["label"] == ("REAL" if float(row["probability_real"]) >= 0.5 else "FAKE")
        assert row["model_version"] == "1"


@pytest.mark.usefixtures("champion")
def test_classify_formats_agree(photos: Path) -> None:
    as_json = json.loads(run("classify", photos, "--format", "json").stdout)
    last_line = json.loads(run("classify", photos, "--json").stdout.splitlines()[-1])
    assert as_json == last_line
    table = run("classify", photos).stdout
    for row in as_json["images"]:
        assert row["path"] in table
        assert f"{row['probability_real']:.4f}" in table


@pytest.mark.usefixtures("champion")
def test_a_bad_file_gets_its_reason_and_the_others_their_verdict(photos: Path) -> None:
    (photos / "bad.jpg").write_text("hello")
    result = run("classify", photos, "--format", "csv")
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert "1 of 3 images could not be classified" in result.stderr
    rows = {Path(row["path"]).name: row for row in csv.DictReader(io.StringIO(result.stdout))}
    assert rows["bad.jpg"]["error"]
    assert not rows["bad.jpg"]["label"]
    assert rows["a.png"]["label"]
    assert rows["b.jpg"]["label"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.png"], "missing.png: no such file or folder"),
        ([".", "--format", "csv"], "no .jpg, .jpeg, .png, .webp files"),
    ],
)
def test_a_wrong_path_is_one_line_and_exit_2(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    result = run("classify", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_an_unreachable_service_is_one_line_and_exit_3(photos: Path) -> None:
    result = run("classify", photos, "--service", "http://127.0.0.1:9")
    assert result.exit_code == 3
    assert "is it up?" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.usefixtures("champion")
def test_explain_writes_one_png_per_image(photos: Path, tmp_path: Path) -> None:
    shutil.copy(photos / "a.png", photos / "sub/a.png")
    result = run("explain", photos, "--out", tmp_path / "out", "--method", "layercam", "--block", "all")
    assert result.exit_code == 0, result.stderr
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a-2.png", "a.png", "b.png"]
    for path in (tmp_path / "out").iterdir():
        with Image.open(path) as picture:
            assert picture.width > 3 * 256


@pytest.mark.usefixtures("champion")
@pytest.mark.parametrize(
    "option",
    [["--method", "nope"], ["--method", "attention-rollout"], ["--block", "nope"], ["--colormap", "nope"]],
)
def test_explain_refuses_an_option_value_that_is_unknown_or_does_not_fit(
    photos: Path, tmp_path: Path, option: list[str]
) -> None:
    result = run("explain", photos / "a.png", "--out", tmp_path / "o.png", *option)
    assert result.exit_code == 2
    assert option[0] in result.stderr
    assert not (tmp_path / "o.png").exists()


def test_serve_refuses_a_port_in_use() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        result = run("serve", "--port", taken.getsockname()[1])
    assert result.exit_code == 2
    assert "choose another --port" in result.stderr


@pytest.mark.usefixtures("champion")
def test_status_shows_the_champion_and_that_the_service_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIFAKE_SERVICE_URL", "http://127.0.0.1:9")
    settings.cache_clear()
    result = run("status")
    assert result.exit_code == 0
    assert "version 1" in result.stdout
    assert "champion" in result.stdout
    assert "http://127.0.0.1:9: no answer" in result.stdout


def test_status_survives_everything_being_down(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("CIFAKE_SERVICE_URL", "http://127.0.0.1:9")
    settings.cache_clear()
    status = json.loads(run("status", "--json").stdout.splitlines()[-1])
    assert status["datasets"] == []
    for part in ("runs", "models", "service"):
        assert "127.0.0.1:9" in status[part]["problem"]
    assert not (home / "mlflow.db").exists()


def test_status_on_a_bare_machine_makes_no_database(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setenv("CIFAKE_SERVICE_URL", "http://127.0.0.1:9")
    settings.cache_clear()
    assert "none yet: cifake data build" in run("status").stdout
    assert not (home / "mlflow.db").exists()


@pytest.mark.usefixtures("migrated")
def test_before_anything_was_trained_the_shipped_detector_classifies_and_explains(
    home: Path, photos: Path, tmp_path: Path
) -> None:
    result = run("classify", photos, "--format", "csv")
    assert result.exit_code == 0, result.stderr
    assert {row["model_version"] for row in csv.DictReader(io.StringIO(result.stdout))} == {"0"}
    drawn = run("explain", photos / "a.png", "--out", tmp_path / "why.png")
    assert drawn.exit_code == 0, drawn.stderr
    assert (tmp_path / "why.png").stat().st_size > 1000
