"""`cifake train`, killed between epochs and run again, ends as if nothing had happened."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from cifake_core.mlflow_client import client
from cifake_core.settings import MODEL_NAME, settings
from cifake_core.training import train as training
from cifake_core.training.options import Options

CIFAKE = str(Path(sys.executable).with_name("cifake"))
OPTIONS = Options(topology="bird-lotfi", epochs=12, batch_size=16, seed=7)


@pytest.fixture
def version(store, make_dataset) -> str:
    return make_dataset(store, 200, 60).version


@pytest.fixture
def command(version: str) -> list[str]:
    options = ["--topology", "bird-lotfi", "--epochs", "12", "--batch-size", "16", "--seed", "7"]
    return [CIFAKE, "train", "--dataset", version, *options, "--json"]


def train(command: list[str]) -> dict:
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]) | {"said": done.stderr}


def kill_after_an_epoch(command: list[str], home: Path) -> None:
    running = subprocess.Popen(command, env=os.environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 600
    while not list(home.glob("training/*/checkpoint.npz")):
        assert running.poll() is None, "training ended before it could be killed"
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)
    running.send_signal(signal.SIGKILL)
    assert running.wait(60) == -signal.SIGKILL


def weights(run_id: str) -> list[bytes]:
    import onnx

    graph = onnx.load(client().download_artifacts(run_id, "detector/score.onnx"))
    return sorted(tensor.raw_data for tensor in graph.graph.initializer)


@pytest.mark.usefixtures("migrated")
@pytest.mark.timeout(1800)  # three trainings, two of them processes of their own
def test_a_killed_training_continues_to_the_weights_of_an_undisturbed_one(store, version, command, home, caplog):
    kill_after_an_epoch(command, home)
    settings.cache_clear()
    assert not client().search_model_versions(f"name='{MODEL_NAME}'")
    continued = train(command)
    assert "continuing after epoch" in continued["said"]
    (registered,) = client().search_model_versions(f"name='{MODEL_NAME}'")
    assert registered.run_id == continued["run_id"]
    experiment = client().get_experiment_by_name("cifake").experiment_id
    assert [run.info.status for run in client().search_runs([experiment])] == ["FINISHED"]
    steps = [metric.step for metric in client().get_metric_history(continued["run_id"], "loss")]
    assert steps == list(range(1, 13))
    assert not list((home / "training").rglob("*"))

    with caplog.at_level("INFO"):
        whole = training.train(store, version, OPTIONS)
    assert "continuing after epoch" not in caplog.text
    assert whole.metrics == continued["metrics"]
    assert weights(continued["run_id"]) == weights(whole.run_id)
