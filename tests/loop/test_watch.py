"""What the figures ask for, and what holds a training back."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, urlparse

import pytest

from cifake_core.errors import ConfigurationError, ServiceError
from cifake_core.loop.watch import FOLDER, POLICY, QUERIES, decide, load_policy, read_figures, watch
from cifake_core.settings import settings
from cifake_core.storage import Store
from tests.servers import answering

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
CALM = {"score_psi": 0.05, "feature_psi": 0.1, "accuracy_upper": 0.97, "feedback_rows": 200.0}


@pytest.fixture
def policy():
    return load_policy()


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        ({"score_psi": 0.4}, "PSI of the score 0.400 is over 0.25"),
        ({"feature_psi": 0.3}, "PSI of a feature 0.300"),
        ({"accuracy_upper": 0.7}, "by 200 true labels accuracy is 0.700 at most"),
    ],
)
def test_a_figure_beyond_its_threshold_asks_for_a_training(policy, figures, said):
    decision = decide(CALM | figures, policy, [], NOW)
    assert decision.action == "train"
    assert said in decision.reasons[0]


@pytest.mark.parametrize(
    "figures",
    [
        {},
        dict.fromkeys(CALM),
        {"accuracy_upper": 0.5, "feedback_rows": 10.0},
        {"score_psi": 0.25},
    ],
    ids=["calm", "unknown", "few labels", "at the threshold"],
)
def test_nothing_is_asked_for_without_evidence(policy, figures):
    assert decide(CALM | figures, policy, [], NOW).action == "none"


def test_a_recent_training_holds_the_next_one_back(policy):
    first = decide(CALM | {"score_psi": 0.4}, policy, [], NOW)
    later = decide(CALM | {"score_psi": 0.4}, policy, [first], NOW + timedelta(hours=23))
    assert later.action == "wait"
    assert "under 24 h ago" in later.reasons[-1]
    assert decide(CALM | {"score_psi": 0.4}, policy, [first, later], NOW + timedelta(hours=25)).action == "train"


def test_no_more_than_the_cap_are_triggered_in_a_week(policy):
    made = []
    for day in range(14):
        made.append(decide(CALM | {"score_psi": 0.4}, policy, made, NOW + timedelta(days=day, minutes=day)))
    actions = [each.action for each in made]
    assert actions[:4] == ["train", "train", "train", "wait"]
    for start in range(8):
        assert actions[start : start + 7].count("train") <= policy.most_per_week


@pytest.mark.parametrize("text", ["version: 1\n", "- a list\n", "score_psi: x\n", "{"])
def test_a_policy_that_cannot_be_one_is_refused(tmp_path, text):
    file = tmp_path / "policy.yaml"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=r"policy\.yaml"):
        load_policy(file)


def test_prometheus_that_does_not_answer_is_an_error_in_one_line():
    with pytest.raises(ServiceError, match="make up-monitoring"):
        read_figures("http://127.0.0.1:9")


@pytest.fixture
def prometheus():
    """Answers Prometheus' query API with set figures; the queries themselves run against a real one elsewhere."""
    answers = {query: CALM[name] for name, query in QUERIES.items()}

    def answer(path):
        query = parse_qs(urlparse(path).query)["query"][0]
        found = [{"metric": {}, "value": [0, str(answers[query])]}] if answers[query] is not None else []
        return 200, {}, json.dumps({"status": "success", "data": {"result": found}}).encode()

    with answering(answer) as url:
        yield url, answers


def test_a_decision_is_recorded_in_the_store_and_in_mlflow(prometheus, home, migrated):
    from cifake_core.mlflow_client import client, experiment_id

    url, answers = prometheus
    answers[QUERIES["score_psi"]] = 0.6
    answers[QUERIES["accuracy_upper"]] = None
    assert [watch(prometheus=url).action for _ in range(2)] == ["train", "wait"]
    assert len(list((home / "store/monitoring/decisions").glob("*.json"))) == 2
    runs = client().search_runs([experiment_id()], order_by=["attributes.start_time"])
    assert [run.data.tags["action"] for run in runs] == ["train", "wait"]
    assert runs[0].data.metrics == {"score_psi": 0.6, "feature_psi": 0.1, "feedback_rows": 200}
    assert runs[0].data.params["cool_down_hours"] == "24.0"


def test_the_same_run_asking_again_is_told_the_same_and_later_ones_are_held_back(prometheus, home, migrated):
    url, answers = prometheus
    answers[QUERIES["score_psi"]] = 0.6
    first = watch(prometheus=url, run="scheduled-1")
    assert first.action == "train"
    assert watch(prometheus=url, run="scheduled-1") == first
    assert watch(prometheus=url, run="scheduled-2").action == "wait"


def test_a_decision_by_another_version_of_cifake_still_holds_the_next_one_back(prometheus, home, migrated):
    said = {"at": datetime.now(UTC).isoformat(), "action": "train", "policy": {"other": 1}, "mood": "good"}
    Store().write(f"{FOLDER}/{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}.json", json.dumps(said).encode())
    url, answers = prometheus
    answers[QUERIES["score_psi"]] = 0.6
    assert watch(prometheus=url).action == "wait"


def test_the_policy_that_the_environment_names_decides(prometheus, migrated, tmp_path, monkeypatch):
    url, answers = prometheus
    answers[QUERIES["score_psi"]] = 0.6
    file = tmp_path / "policy.yaml"
    file.write_text(POLICY.read_text().replace("cool_down_hours: 24 ", "cool_down_hours: 0 "))
    monkeypatch.setenv("CIFAKE_WATCH_POLICY", str(file))
    settings.cache_clear()
    decisions = [watch(prometheus=url) for _ in range(2)]
    assert [(each.action, each.policy.cool_down_hours) for each in decisions] == [("train", 0), ("train", 0)]
