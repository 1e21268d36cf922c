"""Airflow by its REST API: start a run of a DAG, follow it, read what its tasks returned."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import click
import httpx

from cifake_core.errors import CheckFailedError, ServiceError
from cifake_core.settings import settings

DONE = {"success", "failed", "upstream_failed", "skipped", "removed"}


class Airflow:
    """What this project's scripts need of Airflow's REST API, for one DAG.

    Raises:
        ServiceError: from every call, when Airflow is unreachable or refuses.
    """

    def __init__(self, dag: str) -> None:
        this = settings()
        self.dag = dag
        self.url = f"http://{this.host}:{this.airflow_port}"
        # It may share the cores with a training.
        self._http = httpx.Client(base_url=self.url, timeout=120, trust_env=False)
        passwords = this.home / "airflow" / "simple_auth_manager_passwords.json.generated"
        try:
            login = {"username": "admin", "password": json.loads(passwords.read_text())["admin"]}
        except (OSError, ValueError, KeyError) as exc:
            raise ServiceError(f"{passwords}: no password for Airflow ({exc}); run `make up`") from exc
        self._http.headers["Authorization"] = f"Bearer {self.call('POST', '/auth/token', json=login)['access_token']}"

    def call(self, method: str, path: str, **arguments: Any) -> Any:
        """One request; the decoded answer."""
        try:
            answer = self._http.request(method, path, **arguments)
            answer.raise_for_status()
        except httpx.HTTPStatusError as exc:
            raise ServiceError(f"{self.url}{path}: {exc.response.status_code} {exc.response.text[:200]}") from exc
        except httpx.HTTPError as exc:
            raise ServiceError(f"{self.url}: no answer ({exc}); run `make up`") from exc
        return answer.json()

    def trigger(self, conf: dict[str, Any]) -> str:
        """Start a run; its id. Waits until Airflow has read the DAG."""
        deadline = time.monotonic() + 120
        while True:
            try:
                self.call("GET", f"/api/v2/dags/{self.dag}")
                break
            except ServiceError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(1)
        body = {"conf": conf, "logical_date": None}
        return str(self.call("POST", f"/api/v2/dags/{self.dag}/dagRuns", json=body)["dag_run_id"])

    def tasks(self, run: str) -> dict[str, dict[str, Any]]:
        """Task name → its instance in this run."""
        found = self.call("GET", f"/api/v2/dags/{self.dag}/dagRuns/{run}/taskInstances")["task_instances"]
        return {each["task_id"]: each for each in found}

    def result(self, run: str, task: str) -> dict[str, Any]:
        """What a finished task returned."""
        path = f"/api/v2/dags/{self.dag}/dagRuns/{run}/taskInstances/{task}/xcomEntries/return_value"
        value = self.call("GET", path)["value"]
        return dict(json.loads(value) if isinstance(value, str) else value)

    def log(self, run: str, task: str, attempt: int) -> list[str]:
        """A task's log."""
        path = f"/api/v2/dags/{self.dag}/dagRuns/{run}/taskInstances/{task}/logs/{max(attempt, 1)}"
        content = self.call("GET", path, headers={"Accept": "application/json"})["content"]
        return [str(each.get("event", each)) if isinstance(each, dict) else str(each) for each in content]


def follow(airflow: Airflow, run: str) -> None:
    """Say what happens until the run is over.

    Raises:
        CheckFailedError: a task failed.
    """
    told: set[str] = set()
    while True:
        state = airflow.call("GET", f"/api/v2/dags/{airflow.dag}/dagRuns/{run}")["state"]
        tasks = airflow.tasks(run)
        for name, each in sorted(tasks.items(), key=lambda item: item[1].get("end_date") or ""):
            if each.get("state") in DONE and name not in told:
                told.add(name)
                say(f"  {name:14}{each['state']:16}{each.get('duration') or 0:6.1f} s")
        if state == "success":
            return
        if state == "failed":
            _failed(airflow, run, tasks)
        if sys.stderr.isatty():
            now = ", ".join(name for name, each in tasks.items() if each["state"] == "running")
            click.echo(f"\r\033[K  … {now}", err=True, nl=False)
        time.sleep(2)  # each look keeps the API server busy


def say(line: str) -> None:
    """A line of progress, over the line that is being rewritten."""
    click.echo(f"\r\033[K{line}" if sys.stderr.isatty() else line, err=True)


def _failed(airflow: Airflow, run: str, tasks: dict[str, dict[str, Any]]) -> None:
    failed = next((name for name, each in tasks.items() if each.get("state") == "failed"), None)
    if failed is None:
        raise CheckFailedError(f"the run failed before its tasks did: {airflow.url}/dags/{airflow.dag}/runs/{run}")
    click.echo("\n".join(airflow.log(run, failed, tasks[failed]["try_number"])[-15:]), err=True)
    raise CheckFailedError(
        f"the task {failed} failed; its log: {airflow.url}/dags/{airflow.dag}/runs/{run}/tasks/{failed}"
    )
