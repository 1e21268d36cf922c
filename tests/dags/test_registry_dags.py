"""The DAGs around the registry, as Airflow itself reads them: order, triggers, and what their steps run."""

from __future__ import annotations

from typing import Any

DAGS = ("cifake_training", "cifake_promote", "cifake_rollout")


def test_a_published_dataset_starts_a_training_and_a_champion_its_rollout(dags: dict[str, Any]) -> None:
    assert {name: dags[name]["schedule"] for name in DAGS} == {
        "cifake_training": ["cifake_dataset"],
        "cifake_promote": [],
        "cifake_rollout": ["cifake_champion"],
    }


def test_only_a_promotion_tells_of_a_champion(dags: dict[str, Any]) -> None:
    said = {name: dags[name]["outlets"] for name in DAGS}
    assert said["cifake_training"] == said["cifake_promote"] == {"announce": ["cifake_champion"]}
    assert said["cifake_rollout"] == {}  # a rollback must not start another rollout
    for name in ("cifake_training", "cifake_promote"):
        assert "announce" in dags[name]["order"]["promote"]


def test_nothing_is_promoted_before_it_was_evaluated(dags: dict[str, Any]) -> None:
    order = dags["cifake_training"]["order"]
    assert order["which_dataset"] == ["train"]
    assert "evaluate" in order["train"]
    assert order["evaluate"] == ["promote"]


def test_steps_run_the_verbs_they_name(dags: dict[str, Any]) -> None:
    runs = {f"{name}.{task}": line[0] for name in DAGS for task, line in dags[name]["runs"].items()}
    assert runs == {
        "cifake_training.train": "train",
        "cifake_training.evaluate": "evaluate",
        "cifake_training.promote": "promote",
        "cifake_promote.promote": "promote",
        "cifake_promote.verify": "registry",
        "cifake_rollout.verify": "registry",
        "cifake_rollout.rollout": "rollout",
    }
    assert "--roll-back" in dags["cifake_rollout"]["runs"]["rollout"]
