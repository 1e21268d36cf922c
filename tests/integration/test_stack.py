"""Airflow, MLflow and the detector as `make up` runs them, on free ports: a run by REST, one by `airflow dags test`."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from tests import airflow_runs

CHECKOUT = Path(__file__).resolve().parents[2]
# As little training as the gate accepts; crops of a dozen photographs need more of it than as many photographs do.
ROWS = {"train_rows": 6000, "test_rows": 600}
WEAKER = {"train_rows": 1200, "test_rows": 300, "epochs": 1}
RECIPE = {True: {"topology": "bird-lotfi", "epochs": 6}, False: {"topology": "seed", "epochs": 12}}
pytestmark = pytest.mark.timeout(1500)


@dataclass
class Stack:
    """A running stack: its environment, and where its parts answer."""

    environment: dict[str, str]
    airflow: str
    service: str
    conf: dict[str, int | str]

    def script(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run one of the project's scripts against it."""
        command = [sys.executable, CHECKOUT / "scripts" / name, *arguments]
        return subprocess.run(command, cwd=CHECKOUT, env=self.environment, capture_output=True, text=True, timeout=1200)


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture(scope="module")
def stack(real_data: str | None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    airflow, mlflow, service = free_ports(3)
    environment = {
        k: v for k, v in os.environ.items() if k not in ("MLFLOW_TRACKING_URI", "CIFAKE_STORE", "CIFAKE_DATA")
    }
    environment |= {
        "CIFAKE_HOME": str(tmp_path_factory.mktemp("stack")),
        "CIFAKE_AIRFLOW_PORT": str(airflow),
        "CIFAKE_MLFLOW_PORT": str(mlflow),
        "CIFAKE_SERVICE_PORT": str(service),
        "CIFAKE_POLL_SECONDS": "1",
    }
    if real_data:
        environment["CIFAKE_DATA"] = real_data
    conf = {**ROWS, **RECIPE[bool(real_data)]}
    stack = Stack(environment, f"http://127.0.0.1:{airflow}", f"http://127.0.0.1:{service}", conf)
    try:
        up = stack.script("stack.py", "up")
        assert up.returncode == 0, up.stdout + up.stderr
        yield stack
    finally:
        down = stack.script("stack.py", "down")
    assert down.returncode == 0, down.stdout + down.stderr
    left = subprocess.run(["pgrep", "-af", environment["CIFAKE_HOME"]], capture_output=True, text=True).stdout
    assert not left, left


def test_up_again_changes_nothing_and_down_is_not_needed_first(stack: Stack):
    before = stack.script("stack.py", "status").stdout
    again = stack.script("stack.py", "up")
    assert again.returncode == 0, again.stderr
    assert [line.split()[:2] for line in stack.script("stack.py", "status").stdout.splitlines()] == [
        line.split()[:2] for line in before.splitlines()
    ]


def test_a_port_in_use_is_named_before_anything_starts(stack: Stack, tmp_path: Path):
    taken = stack.environment["CIFAKE_SERVICE_PORT"]
    environment = {**stack.environment, "CIFAKE_HOME": str(tmp_path), "CIFAKE_MLFLOW_PORT": taken}
    done = Stack(environment, "", "", {}).script("stack.py", "up")
    assert done.returncode == 2
    assert f"port {taken}" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_demo_runs_the_pipeline_by_rest_and_shows_verdicts_of_the_served_champion(stack: Stack):
    options = [f"--{key.replace('_', '-')}={value}" for key, value in stack.conf.items()]
    done = stack.script("demo.py", *options, "--json")
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert [verdict["truth"] for verdict in result["verdicts"]] == ["FAKE", "REAL"]
    assert {verdict["version"] for verdict in result["verdicts"]} == {1}
    assert all(Path(verdict["overlay"]).read_bytes().startswith(b"\x89PNG") for verdict in result["verdicts"])
    page = Path(result["report"]).read_text()
    assert page.count("data:image/png") >= 10
    assert "http://" not in page.replace(stack.airflow, "").replace(stack.service, "").replace("http://127.0.0.1", "")


def test_airflow_dags_test_runs_the_same_pipeline(stack: Stack, airflow_database: Path):
    state = requests.get(f"{stack.service}/status", timeout=10).json()
    assert state["ready"], state
    environment = airflow_runs.environment(
        Path(stack.environment["CIFAKE_HOME"]) / "dags-test",
        stack.environment,
        MLFLOW_TRACKING_URI=f"http://127.0.0.1:{stack.environment['CIFAKE_MLFLOW_PORT']}",
        CIFAKE_SERVICE_URL=stack.service,
    )
    code, said = airflow_runs.dags_test(environment, "cifake_pipeline", {**stack.conf, **WEAKER}, airflow_database)
    assert code == 0, said[-3000:]
    # The weaker version did not take the champion's place, and the service never stopped answering.
    deadline = time.monotonic() + 30
    while not (state := requests.get(f"{stack.service}/status", timeout=10).json())["ready"]:
        assert time.monotonic() < deadline, state
    assert state["model"]["version"] == 1
