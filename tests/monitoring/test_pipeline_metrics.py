"""The pipeline's figures arrive at a real push gateway, and their absence holds nothing up."""

from __future__ import annotations

import re
import time
import urllib.request

import pytest

from cifake_core import pipeline_metrics as figures
from cifake_core.settings import settings


@pytest.fixture
def pushed(gateway, monkeypatch):
    monkeypatch.setenv("CIFAKE_PUSH_GATEWAY", gateway)
    settings.cache_clear()

    def read():
        with urllib.request.urlopen(f"{gateway}/metrics", timeout=10) as answer:
            return answer.read().decode()

    return read


def value(text, name, **labels):
    """The value of the one series of this name that has these labels."""
    found = [
        (line.rpartition(" ")[2])
        for line in text.splitlines()
        if re.match(rf"{name}(\{{|\s)", line) and all(f'{key}="{is_}"' in line for key, is_ in labels.items())
    ]
    assert len(found) == 1, (name, labels, found)
    return float(found[0])


def test_a_dataset_version_is_told_by_split_label_and_generator(pushed):
    for version in ("old", "new"):
        figures.dataset(version, {"train": {"FAKE": 60, "REAL": 61}}, {"train": {"embedded": 60}})
    text = pushed()
    assert value(text, "cifake_dataset_rows", label="REAL") == 61
    assert value(text, "cifake_dataset_generator_rows", generator="embedded", dataset_version="new") == 60
    assert value(text, "cifake_dataset_created_timestamp_seconds") == pytest.approx(time.time(), abs=60)


def test_shards_are_told_side_by_side_with_the_time_that_is_left(pushed):
    figures.shard("embedded", "train-00000", 50, 200, 10.0)
    figures.shard("embedded", "train-00001", 20, 200, 5.0)
    text = pushed()
    assert value(text, "cifake_generation_eta_seconds", shard="train-00000") == 15
    assert value(text, "cifake_generation_eta_seconds", shard="train-00001") == 36
    assert value(text, "push_time_seconds", job="generate", shard="train-00001") > 0


def test_a_training_is_told_epoch_by_epoch(pushed):
    history = [{"loss": 0.6, "accuracy": 0.7, "val_loss": 0.5, "val_accuracy": 0.75, "seconds": 3.0}]
    figures.epoch("seed", "v", 5, history)
    figures.epoch("seed", "v", 5, [*history, {"loss": 0.4, "accuracy": 0.8, "seconds": 2.0}])
    text = pushed()
    assert value(text, "cifake_training_epoch", topology="seed") == 2
    assert value(text, "cifake_training_loss", split="train") == 0.4
    assert 'split="validation"' not in text


def test_an_evaluation_is_told_with_slices_and_unseen_generators(pushed):
    named = {
        "accuracy": 0.9,
        "ece": 0.02,
        "slice/damage/blur": 0.7,
        "unseen/ddpm/recall": 0.4,
        "unseen/ddpm/auroc": 0.5,
    }
    figures.evaluation(4, "v", named)
    text = pushed()
    assert value(text, "cifake_evaluation_score", metric="ece", model_version="4") == 0.02
    assert value(text, "cifake_evaluation_slice_accuracy", slice="damage/blur") == 0.7
    assert value(text, "cifake_evaluation_unseen_recall", generator="ddpm") == 0.4


def test_the_last_decision_of_each_kind_is_kept(pushed):
    figures.gate("promoted", 1, None, {"floor": True}, {"all": (0.8, None)})
    figures.gate("refused", 2, 1, {"floor": True, "better": False}, {"all": (0.79, 0.8)})
    text = pushed()
    assert value(text, "cifake_gate_decision_timestamp_seconds", kind="promoted", model_version="1") > 0
    assert value(text, "cifake_gate_decision_timestamp_seconds", kind="refused", model_version="2") > 0
    assert value(text, "cifake_gate_check_passed", check="better") == 0
    assert value(text, "cifake_gate_accuracy", role="champion", model_version="1") == 0.8


def test_a_dag_run_is_told_by_outcome(pushed):
    figures.dag_run("cifake_pipeline", "failed", 1000.0, 12.5)
    figures.dag_run("cifake_pipeline", "success", 2000.0, 60.0)
    text = pushed()
    assert value(text, "cifake_dag_run_ended_timestamp_seconds", dag_id="cifake_pipeline", state="failed") == 1000
    assert value(text, "cifake_dag_run_seconds", dag_id="cifake_pipeline", state="success") == 60


def test_a_gateway_that_is_away_costs_a_warning_only(monkeypatch, caplog):
    monkeypatch.setenv("CIFAKE_PUSH_GATEWAY", "http://127.0.0.1:9")
    settings.cache_clear()
    figures.dag_run("cifake_pipeline", "failed", 1000.0, 12.5)
    assert "took no figures" in caplog.text


def test_without_a_gateway_nothing_is_even_computed():
    figures.epoch("seed", "v", 5, [])
