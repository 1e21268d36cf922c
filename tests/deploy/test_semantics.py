"""The project's own Kubernetes checks find what they are there to find."""

from __future__ import annotations

import copy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from deploy.check import model, semantics
from services.detector.keys import Keys

CHECKOUT = Path(__file__).resolve().parents[2]
KUBECTL = CHECKOUT / ".venv-deploy/bin/kubectl"


@pytest.fixture(scope="session")
def render(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[dict[str, Any]]]:
    """The objects of an overlay, by its name."""
    if not KUBECTL.exists():
        pytest.skip("no kubectl: run `make deploy-tools`")
    copy_of = tmp_path_factory.mktemp("k8s") / "k8s"
    shutil.copytree(CHECKOUT / "k8s", copy_of, ignore=shutil.ignore_patterns("secrets"))
    secrets = copy_of / "overlays/local/secrets"
    subprocess.run([sys.executable, CHECKOUT / "deploy/make_secrets.py", secrets], check=True)

    def objects(overlay: str) -> list[dict[str, Any]]:
        command = [KUBECTL, "kustomize", copy_of / "overlays" / overlay]
        return model.load(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    return objects


@pytest.fixture(scope="session")
def local(render: Callable[[str], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    return render("local")


def find(objects: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    return next(o for o in objects if o["kind"] == kind and o["metadata"]["name"] == name)


def container(objects: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    return find(objects, kind, name)["spec"]["template"]["spec"]["containers"][0]


@pytest.fixture(scope="session")
def production(render: Callable[[str], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    return render("production")


def test_the_local_overlay_has_no_problems(local: list[dict[str, Any]]) -> None:
    assert semantics.problems(local) == []


BREAKS: dict[str, tuple[Callable[[list[dict[str, Any]]], Any], str]] = {
    "a selector that misses its pods": (
        lambda o: find(o, "Deployment", "mlflow")["spec"]["selector"]["matchLabels"].update(x="y"),
        "its selector does not match its own pods",
    ),
    "a service nobody answers": (
        lambda o: find(o, "Service", "detector")["spec"]["selector"].update(x="y"),
        "Service/detector: selects no pod",
    ),
    "a service port nobody has": (
        lambda o: find(o, "Service", "detector")["spec"]["ports"][0].update(targetPort="web"),
        "has no port web",
    ),
    "a latest image": (
        lambda o: container(o, "Deployment", "detector").update(image="localhost/cifake/serve:latest"),
        "is not pinned to a version",
    ),
    "a missing service account": (
        lambda o: find(o, "StatefulSet", "airflow-scheduler")["spec"]["template"]["spec"].update(
            serviceAccountName="z"
        ),
        "no ServiceAccount z",
    ),
    "a missing secret": (
        lambda o: o.remove(
            next(x for x in o if x["kind"] == "Secret" and x["metadata"]["name"].startswith("airflow-"))
        ),
        "no Secret airflow-",
    ),
    "a missing key of a secret": (
        lambda o: next(x for x in o if x["kind"] == "Secret" and x["metadata"]["name"].startswith("mlflow-detector-"))[
            "data"
        ].clear(),
        "has no key password",
    ),
    "a root container": (
        lambda o: container(o, "Deployment", "detector")["securityContext"].update(readOnlyRootFilesystem=False),
        "can write its root file system",
    ),
    "an address no service offers": (
        lambda o: next(
            x for x in o if x["kind"] == "ConfigMap" and x["metadata"]["name"].startswith("cifake-settings")
        )["data"].update(MLFLOW_TRACKING_URI="http://mlflow:5001"),
        "which no Service offers",
    ),
    "a label no policy knows": (
        lambda o: find(o, "Deployment", "detector")["spec"]["template"]["metadata"]["labels"].update(
            {"cifake/uses-magic": "true"}
        ),
        "no policy opens anything for cifake/uses-magic",
    ),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_overlay_is_found_out(local: list[dict[str, Any]], name: str) -> None:
    broken = copy.deepcopy(local)
    breaking, expected = BREAKS[name]
    breaking(broken)
    assert any(expected in problem for problem in semantics.problems(broken)), semantics.problems(broken)


# Everything the NetworkPolicies let through inside the namespace; nothing enforces them where these tests run.
CONNECTIONS = {
    ("airflow-api-server", "airflow-scheduler", 8793),
    ("airflow-api-server", "airflow-triggerer", 8794),
    ("airflow-api-server", "postgres", 5432),
    ("airflow-dag-processor", "postgres", 5432),
    ("airflow-migrate", "postgres", 5432),
    ("airflow-scheduler", "airflow-api-server", 8080),
    ("airflow-scheduler", "detector", 3000),
    ("airflow-scheduler", "object-store", 8333),
    ("airflow-scheduler", "postgres", 5432),
    ("airflow-triggerer", "airflow-api-server", 8080),
    ("airflow-triggerer", "postgres", 5432),
    ("detector", "mlflow", 5000),
    ("mlflow", "object-store", 8333),
    ("mlflow", "postgres", 5432),
    ("mlflow-migrate", "postgres", 5432),
    ("setup", "mlflow", 5000),
    ("setup", "object-store", 8333),
    ("step", "detector", 3000),
    ("step", "mlflow", 5000),
    ("step", "object-store", 8333),
}


def test_network_policies_allow_exactly_the_named_connections(local: list[dict[str, Any]]) -> None:
    pods = {p.labels["app.kubernetes.io/name"]: p for p in model.workloads(local)}
    found = {
        (source, target, port)
        for source, pod in pods.items()
        for target, other in pods.items()
        for port in other.ports().values()
        if model.allows(local, pod.labels, other.labels, port)
    }
    assert found == CONNECTIONS


@pytest.mark.parametrize(
    ("kind", "name", "expected"),
    [
        ("Deployment", "detector", "Deployment/detector: an Ingress publishes it, but it asks for no API key"),
        ("StatefulSet", "airflow-scheduler", "StatefulSet/airflow-scheduler: uses a detector that asks for API keys"),
    ],
)
def test_a_published_detector_without_keys_or_a_user_of_it_without_one_is_found_out(
    production: list[dict[str, Any]], kind: str, name: str, expected: str
) -> None:
    assert list(semantics.published(production)) == []
    broken = copy.deepcopy(production)
    variables = container(broken, kind, name)["env"]
    variables[:] = [v for v in variables if not v["name"].startswith(("CIFAKE_AUTH", "CIFAKE_API_KEY_"))]
    if kind == "Deployment":
        variables.append({"name": "CIFAKE_AUTH", "value": "off"})
    assert any(problem.startswith(expected) for problem in semantics.published(broken))


def test_the_key_that_steps_send_is_one_the_detector_knows(tmp_path: Path) -> None:
    subprocess.run([sys.executable, CHECKOUT / "deploy/make_secrets.py", tmp_path], check=True)
    known = Keys(tmp_path / "detector-keys/keys", rate=0)
    assert known.check([(b"x-api-key", (tmp_path / "detector-client/key").read_bytes().strip())]) == "pipeline"


def test_a_rollout_asks_every_replica_and_prometheus_scrapes_each_once(production: list[dict[str, Any]]) -> None:
    settings = next(o for o in production if o["metadata"]["name"].startswith("cifake-settings"))["data"]
    asked = find(production, "Service", urlsplit(settings["CIFAKE_REPLICAS_URL"]).hostname or "")
    assert asked["spec"]["clusterIP"] == "None", "one address would stand for all replicas"
    assert asked["spec"]["selector"] == find(production, "Service", "detector")["spec"]["selector"]
    monitor = find(production, "ServiceMonitor", "detector")["spec"]["selector"]
    services = [o for o in production if o["kind"] == "Service" and model.matches(monitor, o["metadata"]["labels"])]
    assert [o["metadata"]["name"] for o in services] == ["detector"]


def test_with_monitoring_steps_and_scheduler_alone_push_their_figures_to_the_gateway_they_are_told(
    production: list[dict[str, Any]],
) -> None:
    pods = {p.object["metadata"]["name"]: p for p in model.workloads(production)}
    target, users = pods["pushgateway"].labels, {"step-train", "step-generate", "airflow-scheduler"}
    assert {name for name, pod in pods.items() if model.allows(production, pod.labels, target, 9091)} == users
    settings = {
        item["metadata"]["name"]: item["data"]
        for item in production
        if item["kind"] == "ConfigMap" and item["metadata"]["name"].startswith("cifake-settings")
    }
    for name in users:
        (read,) = {
            source["configMapRef"]["name"]
            for each in pods[name].spec["containers"]
            for source in each["envFrom"]
            if source["configMapRef"]["name"].startswith("cifake-settings")
        }
        assert settings[read]["CIFAKE_PUSH_GATEWAY"] == "http://pushgateway:9091"
    (monitor,) = [o for o in production if o["kind"] == "ServiceMonitor" and o["metadata"]["name"] == "pushgateway"]
    assert monitor["spec"]["endpoints"][0]["honorLabels"], "otherwise a step's `job` would be lost"
