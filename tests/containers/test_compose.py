"""The compose stack on podman: up, the pipeline through Airflow's API, down and up, backup, wipe, restore.

Airflow starts each step as a container of its own through podman's socket: this is the docker runtime, end to end.
Grafana is left out where its image is not at hand. Health checks are run here: nothing else runs them without systemd.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from tests.containers.airflow import Airflow
from tests.containers.conftest import CHECKOUT, Podman, answers, classified, free_ports, wait_for

COMPOSE = CHECKOUT / ".venv-deploy/bin/docker-compose"
PROJECT = "cifake-test"
STAND_INS = ("postgres", "object-store", "prometheus", "alertmanager")
ONCE = ("mlflow-migrate", "airflow-migrate", "setup")
LEFT_OUT = ("generate", "grafana")
PIPELINE = {"train_rows": 6000, "test_rows": 600}
RECIPE = {True: {"topology": "bird-lotfi", "epochs": 6}, False: {"topology": "seed", "epochs": 12}}
pytestmark = pytest.mark.timeout(3600)


@dataclass
class Stack:
    """The compose project, in a folder of its own with its own secrets."""

    podman: Podman
    folder: Path
    environment: dict[str, str]
    services: list[str]
    ports: dict[str, int]

    @property
    def compose_command(self) -> list[str]:
        """How compose is called for this project."""
        return [str(COMPOSE), "--project-name", PROJECT, "-f", str(self.folder / "deploy/compose.yaml")]

    def compose(self, *arguments: str, timeout: float = 900) -> None:
        """Run compose."""
        command = [*self.compose_command, *arguments]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=timeout)
        assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]

    def up(self) -> None:
        """Start everything; returns when all of it is healthy, or done where it runs once."""
        self.compose("up", "--detach", *self.services)
        for service in self.services:
            name = self.container(service)
            if service in ONCE:
                state = ("inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", name)
                wait_for(lambda s=state: self.podman(*s).strip() == "exited 0", 600, lambda n=name: self.podman.logs(n))
            else:
                self.podman.healthy(name, 900)

    def container(self, service: str) -> str:
        """A service's container."""
        return f"{PROJECT}-{service}-1"

    def url(self, service: str) -> str:
        """Where a service answers on this machine."""
        return f"http://127.0.0.1:{self.ports[service]}"

    def secret(self, name: str) -> str:
        """A secret's value."""
        return (self.folder / "deploy/secrets" / name).read_text().strip()

    def airflow(self) -> Airflow:
        """Airflow, logged in."""
        return Airflow(self.url("AIRFLOW_PORT"), json.loads(self.secret("airflow/passwords.json"))["admin"])

    def state(self) -> dict[str, Any]:
        """Registry, aliases, objects of both buckets, DAG history."""
        login = ("pipeline", self.secret("mlflow-pipeline/password"))
        api = f"{self.url('MLFLOW_PORT')}/api/2.0/mlflow"
        model = requests.get(f"{api}/registered-models/get", {"name": "cifake-detector"}, auth=login, timeout=60).json()
        found = requests.get(f"{api}/model-versions/search", auth=login, timeout=60).json()
        runs = requests.post(f"{api}/runs/search", json={"experiment_ids": ["1"]}, auth=login, timeout=60).json()
        script = (self.folder / "deploy/objects.py").read_text()
        held = {"mlflow": "mlflow", "cifake": "airflow-scheduler"}
        listed = {
            bucket: json.loads(
                self.podman(
                    *("exec", self.container(service), "/usr/local/bin/entrypoint"),
                    *("python", "-c", script, "list", bucket),
                ).splitlines()[-1]
            )
            for bucket, service in held.items()
        }
        return {
            "model": model["registered_model"],
            "versions": found["model_versions"],
            "runs": runs["runs"],
            "objects": listed,
            "history": self.airflow().history(),
        }


@pytest.fixture(scope="module")
def stack(podman: Podman, real_data: str | None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    if not COMPOSE.exists():
        pytest.skip("no docker-compose: run `make deploy-tools`")
    described = yaml.safe_load((CHECKOUT / "deploy/compose.yaml").read_text())["services"]
    podman.need(*(described[name]["image"].split(":-", 1)[1].rstrip("}") for name in STAND_INS))
    for role in ("orchestrate", "mlflow", "serve", "train", "generate"):
        podman.image(role)
    folder = tmp_path_factory.mktemp("compose")
    for name in ("deploy", "k8s"):
        shutil.copytree(CHECKOUT / name, folder / name, ignore=shutil.ignore_patterns("secrets"))
    subprocess.run([sys.executable, folder / "deploy/make_secrets.py", folder / "deploy/secrets"], check=True)
    names = ("AIRFLOW_PORT", "MLFLOW_PORT", "SERVICE_PORT", "PROMETHEUS_PORT", "ALERTMANAGER_PORT")
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    socket = folder / "podman.sock"
    environment = {
        **os.environ,
        **{name: str(port) for name, port in ports.items()},
        "IMAGES": podman.images,
        "TAG": podman.tag,
        "NETWORK": PROJECT,
        "CIFAKE_DATA": real_data or "",
        "DOCKER_HOST": f"unix://{socket}",
        "DOCKER_SOCKET": str(socket),
        "DOCKER_GROUP": "0",
    }
    service = subprocess.Popen([podman.command, "system", "service", "--time=0", f"unix://{socket}"], cwd=CHECKOUT)
    try:
        wait_for(socket.exists, 30)
        socket.chmod(0o666)
        stack = Stack(podman, folder, environment, [s for s in described if s not in LEFT_OUT], ports)
        try:
            stack.up()
            yield stack
        finally:
            stack.compose("down", "--volumes", "--timeout", "5")
    finally:
        service.terminate()
        service.wait(30)


@pytest.fixture(scope="module")
def promoted(stack: Stack, real_data: str | None) -> dict[str, Any]:
    """The pipeline, run through Airflow's API; what `promote` returned."""
    airflow = stack.airflow()
    run = airflow.trigger("cifake_pipeline", {**PIPELINE, **RECIPE[bool(real_data)]})
    assert airflow.wait(run, 1800) == "success", airflow.story(run)
    return airflow.result(run, "promote")


def verdict(stack: Stack) -> dict[str, Any]:
    """The detector's answer on an image."""
    return classified(stack.url("SERVICE_PORT"))


def test_the_pipeline_promotes_a_model_and_the_detector_answers_with_it(stack: Stack, promoted: dict[str, Any]) -> None:
    assert promoted["promoted"], promoted["reasons"]
    assert verdict(stack)["model"]["version"] == promoted["version"]


def test_prometheus_scrapes_the_detector(stack: Stack, promoted: dict[str, Any]) -> None:
    def up() -> bool:
        query = {"query": 'up{job="detector"}'}
        found = requests.get(f"{stack.url('PROMETHEUS_PORT')}/api/v1/query", query, timeout=30).json()["data"]["result"]
        return [each["value"][1] for each in found] == ["1"]

    wait_for(up, 60)


def test_down_and_up_again_keep_everything(stack: Stack, promoted: dict[str, Any]) -> None:
    before = stack.state()
    assert before["model"]["aliases"]
    stack.compose("down", "--timeout", "30")
    assert not stack.podman("ps", "--quiet", "--filter", f"label=com.docker.compose.project={PROJECT}").strip()
    stack.up()
    assert stack.state() == before
    wait_for(lambda: answers(f"{stack.url('SERVICE_PORT')}/readyz"), 60)
    assert verdict(stack)["model"]["version"] == promoted["version"]


def test_a_wiped_stack_is_restored_from_its_backup(stack: Stack, promoted: dict[str, Any]) -> None:
    before = stack.state()
    backup = stack.folder / "backup"

    def script(what: str) -> subprocess.CompletedProcess[str]:
        environment = {**stack.environment, "COMPOSE": " ".join(stack.compose_command)}
        command = [stack.folder / "deploy/backup.sh", what, str(backup)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)

    start = time.monotonic()
    done = script("backup")
    assert done.returncode == 0, done.stderr
    print(f"backup: {time.monotonic() - start:.0f} s, {sum(f.stat().st_size for f in backup.iterdir()) / 1e6:.0f} MB")
    assert script("backup").returncode == 2, "a backup must never be written over another"

    stack.compose("down", "--volumes", "--timeout", "5")
    stack.up()
    assert stack.airflow().history() == {}
    damaged = backup / "cifake.tar"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[: len(whole) // 2])
    refused = script("restore")
    assert refused.returncode == 2
    assert "damaged; nothing was restored" in refused.stderr
    damaged.write_bytes(whole)

    start = time.monotonic()
    done = script("restore")
    assert done.returncode == 0, done.stderr
    print(f"restore: {time.monotonic() - start:.0f} s")
    stack.up()
    assert stack.state() == before
    wait_for(lambda: answers(f"{stack.url('SERVICE_PORT')}/readyz"), 60)
    assert verdict(stack)["model"]["version"] == promoted["version"]
