"""Tells Prometheus how DAG runs ended, and makes the pool that generation draws from.

Airflow finds it by its entry point, wherever this package is installed. Its own StatsD and OpenTelemetry figures need
an exporter beside each Prometheus; the gateway is there anyway.
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


class Pools:
    """Airflow's listener of its processes' starts."""

    @hookimpl
    def on_starting(self, component: Any) -> None:
        """A scheduler or another process with the database starts; task runners have none."""
        if type(component).__name__ == "Job":
            make_pool()


def make_pool() -> None:
    """Make the pool of generation's tasks in Airflow's database; one that is there keeps the slots somebody gave it.

    Deferred tasks hold their slots: their pods run meanwhile.
    """
    from airflow.models.pool import Pool
    from sqlalchemy.exc import IntegrityError

    from cifake_core.settings import SHARD_POOL, settings

    if Pool.get_pool(SHARD_POOL) is None:
        about = "Tasks that draw shards of images at once, of all runs."
        try:
            Pool.create_or_update_pool(SHARD_POOL, settings().shards_at_once, about, include_deferred=True)
        except IntegrityError:  # another process was faster
            return


class CifakePlugin(AirflowPlugin):
    """The plugin."""

    name = "cifake"
    listeners = [Runs(), Pools()]  # noqa: RUF012
