"""The stand-in for the Kubernetes API: pods really run, fail, are killed and removed; Roles are enforced."""

from __future__ import annotations

import json
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.containers.conftest import CHECKOUT, Podman, wait_for
from tests.containers.play import Object
from tests.containers.pod_api import PodApi
from tests.containers.test_cluster import tokens

IMAGE = "localhost/cifake/base:bookworm"
ADDRESS = "127.0.0.1"
NETWORK = "cifake-test-pods"
SCHEDULER, TRIGGERER = "token-of-airflow-scheduler", "token-of-airflow-triggerer"
pytestmark = pytest.mark.timeout(900)


class Client:
    """Requests of one service account."""

    def __init__(self, url: str, certificate: Path, token: str, scheme: str = "Bearer") -> None:
        self.pods = f"{url}/api/v1/namespaces/cifake/pods"
        self._http = requests.Session()
        self._http.trust_env = False  # a CA bundle named there would replace the one below
        self._http.verify = str(certificate)
        self._http.headers["Authorization"] = f"{scheme} {token}"

    def call(self, method: str, path: str = "", **arguments: Any) -> requests.Response:
        """One request."""
        return self._http.request(method, self.pods + path, timeout=120, **arguments)

    def start(self, script: str) -> str:
        """Start a pod that runs a shell script; its name."""
        name = f"test-{uuid.uuid4().hex[:8]}"
        base = {"name": "base", "image": IMAGE, "command": ["sh", "-c", script]}
        spec = {"restartPolicy": "Never", "containers": [base]}
        made = self.call("POST", json={"metadata": {"name": name, "labels": {"script": "x"}}, "spec": spec})
        assert made.status_code == 201, made.text
        return name

    def ended(self, name: str) -> tuple[str, int]:
        """Phase and exit code of a pod that has ended."""

        def status() -> Object | None:
            found = self.call("GET", f"/{name}").json()["status"]
            return found if found["phase"] in ("Succeeded", "Failed") else None

        found = wait_for(status, 180, lambda: self.call("GET", f"/{name}").text)
        return found["phase"], found["containerStatuses"][0]["state"]["terminated"]["exitCode"]


def rendered_roles() -> list[Object]:
    """The Roles and RoleBindings of the base."""
    import yaml

    return list(yaml.safe_load_all((CHECKOUT / "k8s/base/airflow/rbac.yaml").read_text()))


@pytest.fixture(scope="module")
def api(podman: Podman, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[PodApi, str, Path]]:
    podman.need(IMAGE)
    folder = tmp_path_factory.mktemp("pods")
    socket = folder / "podman.sock"
    service = subprocess.Popen([podman.command, "system", "service", "--time=0", f"unix://{socket}"], cwd=CHECKOUT)
    podman("network", "create", NETWORK)
    api = PodApi(podman, socket, NETWORK, rendered_roles(), tokens(folder, ADDRESS))
    try:
        wait_for(socket.exists, 60)
        port = api.start(ADDRESS, folder / "api.crt", folder / "api.key")
        try:
            yield api, f"https://{ADDRESS}:{port}", folder / "api.crt"
        finally:
            api.stop()
    finally:
        podman.run("network", "rm", "--force", NETWORK)
        service.terminate()
        service.wait(30)


@pytest.fixture
def scheduler(api: tuple[PodApi, str, Path]) -> Client:
    return Client(api[1], api[2], SCHEDULER)


def test_a_pod_runs_to_its_end_and_its_log_is_read(scheduler: Client) -> None:
    name = scheduler.start("echo hello")
    assert scheduler.ended(name) == ("Succeeded", 0)
    assert scheduler.call("GET", f"/{name}/log").text.splitlines() == ["hello"]
    assert scheduler.call("DELETE", f"/{name}").ok
    assert scheduler.call("GET", f"/{name}").status_code == 404


def test_a_failing_pod_says_its_exit_code(scheduler: Client) -> None:
    assert scheduler.ended(scheduler.start("exit 3")) == ("Failed", 3)


def test_a_killed_pod_ends_as_one_that_was_killed(api: tuple[PodApi, str, Path], scheduler: Client) -> None:
    api[0].strike = lambda pod: "sleep" in json.dumps(pod["spec"])
    assert scheduler.ended(scheduler.start("sleep 600")) == ("Failed", 137)


def test_an_account_may_do_what_its_role_says_and_nothing_else(api: tuple[PodApi, str, Path]) -> None:
    server, url, certificate = api
    triggerer = Client(url, certificate, TRIGGERER)
    assert triggerer.call("GET").status_code == 200
    assert Client(url, certificate, TRIGGERER, "bearer").call("GET").status_code == 200  # as inside a cluster
    assert triggerer.call("POST", json={}).status_code == 403
    assert server.refused[-1] == "airflow-triggerer: create pods"
    assert Client(url, certificate, "nobody").call("GET").status_code == 401
