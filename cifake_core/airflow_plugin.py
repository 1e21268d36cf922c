"""Tells Prometheus how DAG runs ended. Airflow finds it by its entry point, wherever this package is installed.

Airflow's own StatsD and OpenTelemetry figures need an exporter beside each Prometheus; the gateway is there anyway.
"""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from typing import Any

from airflow.listeners import hookimpl
from airflow.plugins_manager import AirflowPlugin


class Runs:
    """Airflow's listener, called in the scheduler."""

    @hookimpl
    def on_dag_run_success(self, dag_run: Any, msg: str) -> None:
        """A run succeeded."""
        _tell(dag_run, "success")

    @hookimpl
    def on_dag_run_failed(self, dag_run: Any, msg: str) -> None:
        """A run failed."""
        _tell(dag_run, "failed")


def _tell(dag_run: Any, state: str) -> None:
    from cifake_core.pipeline_metrics import dag_run as tell

    ended = dag_run.end_date or datetime.now(UTC)
    seconds = (ended - (dag_run.start_date or ended)).total_seconds()
    # Apart from the scheduler's loop: a gateway that hangs must not hold the pipeline up.
    threading.Thread(target=tell, args=(dag_run.dag_id, state, ended.timestamp(), seconds), daemon=True).start()


class CifakePlugin(AirflowPlugin):
    """The plugin."""

    name = "cifake"
    listeners = [Runs()]  # noqa: RUF012
