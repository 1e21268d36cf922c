"""`cifake train` as users meet it: one run in MLflow, one model version, the same again on the same input."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cifake_core import bundle
from cifake_core.errors import ConfigurationError, DatasetError, ModelError
from cifake_core.images import dataset
from cifake_core.mlflow_client import client
from cifake_core.registry import artifacts
from cifake_core.settings import MODEL_NAME, settings
from cifake_core.storage import Store
from cifake_core.training import topologies, tracking
from cifake_core.training.epochs import Arrays
from cifake_core.training.options import Options, fingerprint
from cifake_core.training.tracking import find_version
from cifake_core.training.train import train

CIFAKE = str(Path(sys.executable).with_name("cifake"))
OPTIONS = Options(topology="bird-lotfi", epochs=2, batch_size=16, seed=5)


@pytest.fixture(scope="module")
def trained_home(make_dataset, mlflow_database, tmp_path_factory):
    """A home with a dataset version and one training of it: (home, manifest, what `train` returned)."""
    folder = tmp_path_factory.mktemp("home")
    shutil.copy(mlflow_database, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)  # MLflow itself sets it, in the test before
        patch.setenv("CIFAKE_HOME", str(folder))
        settings.cache_clear()
        manifest = make_dataset(Store(), 200, 100)
        yield folder, manifest, train(Store(), manifest.version, OPTIONS)


@pytest.fixture
def trained(trained_home, home, monkeypatch):
    monkeypatch.setenv("CIFAKE_HOME", str(trained_home[0]))
    settings.cache_clear()
    return trained_home


def versions() -> list[int]:
    return sorted(int(found.version) for found in client().search_model_versions(f"name='{MODEL_NAME}'"))


def test_a_training_becomes_a_model_version_without_alias(trained):
    _, manifest, result = trained
    version = artifacts.resolve(str(result.model_version))
    assert (version.run_id, version.dataset_version, list(version.aliases)) == (result.run_id, manifest.version, [])
    assert version.tags["topology"] == "bird-lotfi"
    assert float(version.tags["accuracy"]) == result.metrics["accuracy"]
    detector = bundle.Detector(artifacts.fetch(version))
    assert (detector.info.run_id, detector.info.parameters, detector.info.seed) == (result.run_id, 141_345, 5)


def test_the_registered_bundle_scores_the_test_split_as_reported(trained):
    _, manifest, result = trained
    test = Arrays(*dataset.arrays(Store(), manifest, "test"))
    detector = bundle.Detector(artifacts.fetch(artifacts.resolve(str(result.model_version))))
    answers = detector.probability_real(test.images) >= 0.5
    assert result.metrics["accuracy"] == pytest.approx((answers == test.labels).mean())


def test_the_run_holds_options_data_metrics_and_every_artefact(trained):
    _, manifest, result = trained
    run = client().get_run(result.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params == {k: str(v) for k, v in OPTIONS.parameters().items()} | {
        "dataset_version": manifest.version
    }
    assert [used.dataset.digest for used in run.inputs.dataset_inputs] == [manifest.version]
    assert [m.step for m in client().get_metric_history(result.run_id, "val_f1")] == [1, 2]
    assert run.data.metrics["test_accuracy"] == result.metrics["accuracy"]
    found = {item.path for item in client().list_artifacts(result.run_id)}
    assert found >= {
        *("detector", "CNN_model.h5", "training_curves.png", "confusion_matrix.png"),
        *("test_report.json", "history.json", "environment.txt"),
    }
    report = json.loads(Path(client().download_artifacts(result.run_id, "test_report.json")).read_text())
    assert np.sum(report["all"]["confusion"]) == sum(manifest.counts["test"].values())
    assert sum(part["rows"] for part in report["classes"].values()) == report["all"]["rows"]


def test_the_keras_model_is_logged_with_a_signature_and_scores_as_the_bundle(trained):
    import mlflow

    _, manifest, result = trained
    uri = f"models:/{MODEL_NAME}/{result.model_version}"
    images = dataset.arrays(Store(), manifest, "test")[0][:4]
    model = mlflow.keras.load_model(uri)
    detector = bundle.Detector(artifacts.fetch(artifacts.resolve(str(result.model_version))))
    np.testing.assert_allclose(np.asarray(model(images))[:, 0], detector.probability_real(images), atol=1e-5)
    logged = mlflow.models.get_model_info(uri)
    assert "uint8" in str(logged.signature.inputs)
    assert logged.saved_input_example_info


def test_the_same_training_again_gives_the_same_metrics_and_graphs_as_a_new_version(trained):
    home, manifest, first = trained
    again = train(Store(), manifest.version, OPTIONS)
    assert again.model_version == first.model_version + 1
    assert again.metrics == first.metrics
    one, other = (bundle.Detector(artifacts.fetch(artifacts.resolve(str(r.model_version)))) for r in (first, again))
    assert one.info.sha256["parity.npz"] == other.info.sha256["parity.npz"]
    assert not list((home / "training").iterdir())


def test_a_training_killed_after_it_registered_leaves_its_version_as_it_is(trained, monkeypatch):
    _, manifest, _ = trained
    options = OPTIONS.model_copy(update={"seed": 6, "epochs": 1})
    register = tracking.register

    def killed(run_id):
        register(run_id)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tracking, "register", killed)
        with pytest.raises(KeyboardInterrupt):
            train(Store(), manifest.version, options)
    before = versions()
    result = train(Store(), manifest.version, options)
    assert versions() == before
    assert result.model_version == max(before)
    bundle.Detector(artifacts.fetch(artifacts.resolve(str(result.model_version))))


def test_a_network_whose_graphs_disagree_is_not_registered(trained, monkeypatch):
    import tensorflow as tf
    from keras import layers

    class OtherwiseInGraphs(layers.Layer):
        def call(self, x):
            return x if tf.executing_eagerly() else x * 1.001

    def body(x):
        return OtherwiseInGraphs()(layers.Flatten()(layers.Conv2D(2, 3, name="block1")(x)))

    monkeypatch.setitem(topologies._TOPOLOGIES, "careless", body)
    before = versions()
    with pytest.raises(ModelError, match="differs from Keras by"):
        train(Store(), trained[1].version, Options(topology="careless", epochs=1))
    assert versions() == before
    runs = client().search_runs([client().get_experiment_by_name("cifake").experiment_id], "tags.topology = 'careless'")
    assert [run.info.status for run in runs] == ["FAILED"]


def test_a_training_that_runs_already_is_not_started_twice(trained):
    import fcntl

    folder = settings().home / "training" / fingerprint(OPTIONS, trained[1].version, settings().tracking_uri)
    folder.mkdir(parents=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ConfigurationError, match="the same training runs already"):
            train(Store(), trained[1].version, OPTIONS)


def test_what_cannot_be_trained_is_refused_before_anything_is_written(store, home, make_dataset):
    with pytest.raises(DatasetError, match="no dataset version 'nosuch'"):
        train(store, "nosuch", OPTIONS)
    with pytest.raises(ConfigurationError, match="no topology 'vgg'"):
        train(store, "nosuch", Options(topology="vgg"))
    untested = make_dataset(store, 100, 0)
    with pytest.raises(DatasetError, match="no FAKE and no REAL rows in its test split"):
        train(store, untested.version, OPTIONS)
    assert sorted(path.name for path in home.iterdir()) == ["store"]


def test_an_unreachable_mlflow_is_one_line_before_training_starts(store, home, make_dataset):
    manifest = make_dataset(store, 100, 20)
    command = [CIFAKE, "train", "--dataset", manifest.version, "--topology", "bird-lotfi"]
    with socket.socket() as silent:  # bound, and listening to nobody
        silent.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{silent.getsockname()[1]}"
        environment = os.environ | {"MLFLOW_TRACKING_URI": nobody}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 3
    assert done.stderr.startswith(f"cifake train: cannot find the experiment at {nobody}: no answer")
    assert done.stderr.count("\n") == 1
    assert not list(home.rglob("checkpoint*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--learning-rate", "-1"], "cifake train: --learning-rate: Input should be greater than 0"),
        (["--epochs", "0"], "cifake train: --start: Value error, without epochs there must be versions to start from"),
        (["--topology", "vgg"], "cifake train: no topology 'vgg'; known: bird-lotfi"),
        (["--image-size", "4"], "Invalid value for '--image-size'"),
    ],
)
def test_a_wrong_option_is_one_line_and_exit_code_2(arguments, message):
    command = [CIFAKE, "train", "--dataset", "x", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_training_goes_on_from_a_registered_version(trained):
    _, manifest, result = trained
    client().set_registered_model_alias(MODEL_NAME, "champion", str(result.model_version))
    assert find_version("champion", "--start") == (result.model_version, {"topology": "bird-lotfi", "image_size": 32})
    still = Options(**{**OPTIONS.model_dump(), "start": (result.model_version,), "epochs": 1, "learning_rate": 1e-12})
    again = train(Store(), manifest.version, still)
    assert again.model_version != result.model_version
    assert again.metrics["brier"] == pytest.approx(result.metrics["brier"], abs=1e-5)


def test_the_mean_of_registered_versions_becomes_one(trained):
    _, manifest, result = trained
    twice = Options(**{**OPTIONS.model_dump(), "start": 2 * (result.model_version,), "epochs": 0})
    mean = train(Store(), manifest.version, twice)
    assert mean.model_version > result.model_version
    assert mean.metrics == result.metrics


def test_registered_versions_side_by_side_become_one_that_can_be_trained_on(trained):
    _, manifest, result = trained
    one = str(result.model_version)
    command = [CIFAKE, "train", "--dataset", manifest.version, "--json"]
    done = subprocess.run([*command, "--member", one, "--member", one], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    both = json.loads(done.stdout)
    assert both["metrics"] == pytest.approx(result.metrics, abs=1e-5)
    tags = client().get_model_version(MODEL_NAME, str(both["model_version"])).tags
    assert (tags["topology"], tags["parameters"]) == ("bird-lotfi+bird-lotfi", str(2 * 141_345))
    again = [*command, "--start", str(both["model_version"]), "--epochs", "1", "--learning-rate", "1e-12"]
    done = subprocess.run(again, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["metrics"]["brier"] == pytest.approx(result.metrics["brier"], abs=1e-5)
    mixed = subprocess.run([*again, "--member", one], capture_output=True, text=True, timeout=60)
    assert mixed.returncode == 2
    assert "cifake train: --start: Value error, versions are started from, or members of an ensemble" in mixed.stderr


def test_a_training_learns_from_registered_versions(trained):
    _, manifest, result = trained
    taught = [CIFAKE, "train", "--dataset", manifest.version, "--topology", "bird-lotfi", "--epochs", "1"]
    done = subprocess.run(
        [*taught, "--teacher", str(result.model_version), "--json"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    found = client().get_model_version(MODEL_NAME, str(json.loads(done.stdout)["model_version"]))
    assert client().get_run(found.run_id).data.params["teachers"] == f"({result.model_version},)"
    unknown = subprocess.run([*taught, "--teacher", "99"], capture_output=True, text=True, timeout=60)
    assert unknown.returncode == 2
    assert "--teacher: cifake-detector has no version or alias '99'" in unknown.stderr


def test_a_version_to_start_from_must_exist_and_fit(trained):
    _, manifest, result = trained
    with pytest.raises(ConfigurationError, match="no version or alias '99'"):
        find_version("99", "--start")
    larger = Options(topology="bird-lotfi", epochs=1, start=(result.model_version,), image_size=64)
    with pytest.raises(ConfigurationError, match="do not fit 'bird-lotfi' at 64 pixels a side"):
        train(Store(), manifest.version, larger)
    other = Options(topology="seed", epochs=1, start=(result.model_version,))
    with pytest.raises(ConfigurationError, match="is a 'bird-lotfi': its weights do not fit a 'seed'"):
        train(Store(), manifest.version, other)
