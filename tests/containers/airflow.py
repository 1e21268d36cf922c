"""What the tests need of Airflow's REST API."""

from __future__ import annotations

import json
from typing import Any

import requests

from tests.containers.conftest import wait_for

OVER = {"success", "failed"}


def lines(entry: Any) -> list[str]:
    """An entry of a task's log: what happened, and the exceptions that came with it."""
    if not isinstance(entry, dict):
        return [str(entry)]
    errors = [f"{error['exc_type']}: {error['exc_value']}" for error in entry.get("error_detail") or []]
    return [str(entry.get("event", entry)), *errors]


class Airflow:
    """A running Airflow; logs in as `admin`."""

    def __init__(self, url: str, password: str) -> None:
        self.url = url
        self._http = requests.Session()
        login = {"username": "admin", "password": password}
        token = self._http.post(f"{url}/auth/token", json=login, timeout=60)
        token.raise_for_status()
        self._http.headers["Authorization"] = f"Bearer {token.json()['access_token']}"

    def call(self, method: str, path: str, **arguments: Any) -> Any:
        """One request; the decoded answer."""
        answer = self._http.request(method, f"{self.url}/api/v2{path}", timeout=60, **arguments)
        answer.raise_for_status()
        return answer.json()

    def trigger(self, dag: str, conf: dict[str, Any]) -> str:
        """Start a run, as soon as Airflow has read the DAG; its path."""
        wait_for(lambda: self._http.get(f"{self.url}/api/v2/dags/{dag}", timeout=60).ok, 180, lambda: f"no DAG {dag}")
        self.call("PATCH", f"/dags/{dag}", json={"is_paused": False})
        run = self.call("POST", f"/dags/{dag}/dagRuns", json={"conf": conf, "logical_date": None})["dag_run_id"]
        return f"/dags/{dag}/dagRuns/{run}"

    def tasks(self, run: str) -> dict[str, dict[str, Any]]:
        """Task name → its instance in this run."""
        return {each["task_id"]: each for each in self.call("GET", f"{run}/taskInstances")["task_instances"]}

    def wait(self, run: str, seconds: float) -> str:
        """The state a run ends in."""
        state = lambda: self.call("GET", run)["state"]  # noqa: E731
        wait_for(lambda: state() in OVER, seconds, lambda: self.story(run))
        return str(state())

    def story(self, run: str) -> str:
        """Every task's state, and the log's end of those that failed or still run."""
        told = []
        for name, task in self.tasks(run).items():
            told.append(f"{name}: {task['state']}, try {task['try_number']}, {task['duration']} s")
            if task["state"] in ("failed", "running", "up_for_retry"):
                told += self.log(run, name, max(task["try_number"], 1))[-25:]
        return "\n".join(told)

    def log(self, run: str, task: str, attempt: int) -> list[str]:
        """A try's log."""
        path = f"{run}/taskInstances/{task}/logs/{attempt}"
        content = self.call("GET", path, headers={"Accept": "application/json"})["content"]
        return [line for each in content for line in lines(each)]

    def result(self, run: str, task: str) -> dict[str, Any]:
        """What a finished task returned."""
        value = self.call("GET", f"{run}/taskInstances/{task}/xcomEntries/return_value")["value"]
        return dict(json.loads(value) if isinstance(value, str) else value)

    def history(self) -> dict[str, dict[str, tuple[str, int]]]:
        """Every run of every DAG: path → task → (state, tries)."""
        runs = self.call("GET", "/dags/~/dagRuns", params={"limit": 100})["dag_runs"]
        paths = [f"/dags/{each['dag_id']}/dagRuns/{each['dag_run_id']}" for each in runs]
        return {
            path: {name: (str(task["state"]), int(task["try_number"])) for name, task in self.tasks(path).items()}
            for path in sorted(paths)
        }
