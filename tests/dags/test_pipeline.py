"""The DAGs as Airflow itself reads them: all load, explain themselves and refuse nonsense; the pipeline's order."""

from __future__ import annotations

from typing import Any

import pytest

from tests.dags.conftest import BAD


def test_every_dag_file_loads(loaded: dict[str, Any]) -> None:
    assert loaded["errors"] == {}


def test_nothing_is_trained_before_validation_nor_promoted_before_evaluation(dags: dict[str, Any]) -> None:
    order = dags["cifake_pipeline"]["order"]
    assert "assemble" in order["collect_real"]
    assert "assemble" in order["generate"]
    assert "validate" in order["assemble"]
    assert "train" in order["validate"]
    assert "train" not in order["assemble"]
    assert "promote" in order["evaluate"]
    assert order["promote"] == ["answers_with"]


@pytest.mark.parametrize("name", BAD)
def test_a_dag_and_its_tasks_explain_themselves(dags: dict[str, Any], name: str) -> None:
    assert dags[name]["doc"]
    assert "cifake" in dags[name]["tags"]
    assert dags[name]["undocumented"] == []


@pytest.mark.parametrize("name", BAD)
def test_a_dag_runs_one_at_a_time(dags: dict[str, Any], name: str) -> None:
    assert dags[name]["one_at_a_time"]


@pytest.mark.parametrize("name", BAD)
def test_params_that_no_verb_could_take_are_refused_before_a_run(dags: dict[str, Any], name: str) -> None:
    assert dags[name]["refused"] == BAD[name]
