"""A sweep as users meet it: the grid trained in two halves, maps, the best as challenger; resumed, not repeated."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cifake_core.errors import ConfigurationError
from cifake_core.mlflow_client import client
from cifake_core.registry import artifacts
from cifake_core.settings import settings
from cifake_core.storage import Store
from cifake_core.training import sweep
from cifake_core.training.options import Options
from cifake_core.training.train import train

CIFAKE = str(Path(sys.executable).with_name("cifake"))
GRID = """
extractors: {filters: [2, 4], convolutions: [1]}
heads: {units: [3], dense: [1, 2]}
options: {epochs: 1, batch_size: 64}
"""


@pytest.fixture(scope="module")
def swept_home(make_dataset, mlflow_database, tmp_path_factory):
    """A home with a sweep of four networks: (home, manifest, grid, what `run` returned)."""
    folder = tmp_path_factory.mktemp("home")
    shutil.copy(mlflow_database, folder)
    (folder / "grid.yaml").write_text(GRID)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)  # MLflow itself sets it, in the test before
        patch.setenv("CIFAKE_HOME", str(folder))
        settings.cache_clear()
        manifest, grid = make_dataset(Store(), 200, 100), sweep.load_grid(str(folder / "grid.yaml"))
        yield folder, manifest, grid, sweep.run(Store(), manifest.version, grid)


@pytest.fixture
def swept(swept_home, home, monkeypatch):
    monkeypatch.setenv("CIFAKE_HOME", str(swept_home[0]))
    settings.cache_clear()
    return swept_home


def test_heads_are_tried_on_the_best_extractor_and_the_best_of_all_is_challenger(swept):
    _, manifest, _, result = swept
    names = {each.topology for each in result.members}
    best = next(each.topology for each in result.members if "dense" not in each.topology)
    assert names == {"conv2x1", "conv4x1", f"{best}-dense3x1", f"{best}-dense3x2"}
    assert [m.val_accuracy for m in result.members] == sorted((m.val_accuracy for m in result.members), reverse=True)
    version = artifacts.resolve("challenger")
    assert (version.version, version.run_id) == (result.model_version, result.members[0].run_id)
    assert (version.tags["topology"], version.dataset_version) == (result.best, manifest.version)
    assert artifacts.fetch(version).is_dir()


def test_members_are_nested_in_one_run_which_holds_the_maps(swept):
    _, _, _, result = swept
    for each in result.members:
        assert client().get_run(each.run_id).data.tags["mlflow.parentRunId"] == result.sweep
    found = {item.path for item in client().list_artifacts(result.sweep)}
    assert found == {"extractors.png", "heads.png", "pareto.png", "members.json"}
    assert client().get_run(result.sweep).info.status == "FINISHED"


def test_the_same_sweep_again_trains_nothing_and_registers_nothing(swept):
    _, manifest, grid, result = swept
    assert sweep.run(Store(), manifest.version, grid) == result


def test_a_sweep_goes_on_with_the_networks_it_lacks(swept):
    _, manifest, grid, _ = swept
    other = grid.model_copy(update={"options": Options(epochs=1, batch_size=64, seed=1)})
    part = sweep.start(Store(), manifest.version, other)
    sweep.member(Store(), part.sweep, part.topologies[0])
    with pytest.raises(ConfigurationError, match="the sweep lacks conv4x1"):
        sweep.heads(part.sweep)
    assert sweep.start(Store(), manifest.version, other) == part
    assert [each.topology for each in sweep.members(part.sweep)] == ["conv2x1"]


def test_a_training_stops_when_the_loss_has_settled(swept):
    _, manifest, _, _ = swept
    still = Options(topology="conv2x1", epochs=30, batch_size=64, learning_rate=1e-12, patience=2)
    run = train(Store(), manifest.version, still).run_id
    assert len(client().get_metric_history(run, "val_loss")) < 30


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("extractors: {filters: [2], convolutions: [1]}\nheds: {}", "heds: Extra inputs are not permitted"),
        ("extractors: {filters: [], convolutions: [1]}", "extractors.filters: List should have at least 1 item"),
        ("extractors: {filters: [2], convolutions: [1]}\noptions: {epoch: 1}", "options.epoch: Extra inputs"),
        ("extractors: {filters: [99999], convolutions: [1]}", "no topology 'conv99999x1'"),
        ("[", "not a readable YAML file"),
    ],
)
def test_a_bad_grid_is_named_before_anything_is_trained(tmp_path, text, complaint):
    (tmp_path / "grid.yaml").write_text(text)
    done = subprocess.run(
        [CIFAKE, "sweep", "--dataset", "0" * 16, "--grid", tmp_path / "grid.yaml"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr


def test_a_run_that_is_no_sweep_is_told(swept):
    _, _, _, result = swept
    with pytest.raises(ConfigurationError, match="is not a sweep"):
        sweep.heads(result.members[0].run_id)


def test_a_network_outside_the_grid_is_refused(swept):
    _, _, _, result = swept
    with pytest.raises(ConfigurationError, match="'house-s' is not in the grid"):
        sweep.member(Store(), result.sweep, "house-s")


def test_the_paper_grid_is_twelve_extractors_and_twenty_four_heads():
    grid = sweep.load_grid()
    assert (len(grid.names()), len(grid.names("conv32x2"))) == (12, 24)
