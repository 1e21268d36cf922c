"""Each image, hardened as on a cluster (non-root, read-only, no capabilities), does its job."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import requests
from PIL import Image

from cifake_core.images import codec, records
from cifake_core.storage import Store
from tests.containers.conftest import HARDENED, USER, Podman, classified, free_ports, picture, wait_for

ROLES = ("generate", "mlflow", "orchestrate", "serve", "train")
SERVERS = ("mlflow", "serve")
NEEDS = {
    "generate": "torch",
    "mlflow": "mlflow",
    "orchestrate": "apache-airflow",
    "serve": "onnxruntime",
    "train": "keras",
}
SERVE_BUDGET_MB = 450
INSIDE = """
id -u
grep -h '^Cap\\(Prm\\|Eff\\|Bnd\\)' /proc/self/status
for tool in cc gcc g++ make git apt-get pip pip3; do command -v $tool || true; done | grep ^/opt || true
touch /opt/x /etc/x 2>/dev/null && echo WRITABLE
find /opt -perm /022 ! -type l | head -3
find /opt /root /tmp \\( -name '*.whl' -o -name '*.deb' -o -path '*/pip/http*' \\) -print 2>/dev/null | head -3
cat /opt/sbom/python.cdx.json
"""
Verb = Callable[..., dict[str, Any]]
pytestmark = pytest.mark.timeout(1200)


@pytest.mark.parametrize("role", ROLES)
def test_an_image_holds_what_its_role_needs_and_no_tools_or_rights_beyond(podman: Podman, role: str) -> None:
    image = podman.image(role)
    described = json.loads(podman("image", "inspect", image))[0]
    config = described["Config"]
    assert config["User"] == f"{USER}:{USER}"
    assert {"title", "version", "revision", "licenses"} == {
        name.removeprefix("org.opencontainers.image.") for name in config["Labels"] if "opencontainers" in name
    }
    assert (described["Healthcheck"]["Test"] != ["NONE"]) == (role in SERVERS)
    said = podman("run", "--rm", "--network=none", *HARDENED, image, "sh", "-c", INSIDE)
    lines, sbom = said.split("{", 1)
    assert lines.splitlines() == [str(USER), *(f"Cap{which}:\t0000000000000000" for which in ("Prm", "Eff", "Bnd"))]
    listed = json.loads("{" + sbom)
    assert listed["bomFormat"] == "CycloneDX"
    assert NEEDS[role] in {each["name"] for each in listed["components"]}


def test_the_serving_image_keeps_to_its_budget(podman: Podman) -> None:
    whole, base = (
        int(podman("image", "inspect", "--format", "{{.Size}}", name))
        for name in (podman.image("serve"), "localhost/cifake/base:bookworm")
    )
    assert (whole - base) / 1e6 <= SERVE_BUDGET_MB


@pytest.fixture(scope="module")
def trained(cifake: Verb) -> dict[str, Any]:
    """A model version, trained for one epoch and made champion, all in containers of the train image."""
    built = cifake("train", "data", "build", "--train-rows", "400", "--test-rows", "200")
    made = cifake("train", "train", "--dataset", built["dataset_version"], "--topology", "bird-lotfi", "--epochs", "1")
    cifake("train", "promote", "--version", str(made["model_version"]), "--force", "--reason", "one epoch will do")
    return made


def test_the_train_image_trains_and_registers_a_version(trained: dict[str, Any]) -> None:
    assert trained["model_version"] == 1
    assert 0 <= trained["metrics"]["accuracy"] <= 1


def test_the_generate_image_draws_embedded_images(cifake: Verb, shared: Path) -> None:
    drawn = cifake("generate", "generate", "--generator", "embedded", "--train-rows", "12", "--test-rows", "4")
    assert drawn["rows"] == 16
    store = Store((shared / "store").as_uri())
    folder = drawn["rows_url"].removeprefix("file:///var/lib/cifake/store/")
    tables = [pq.read_table(store.open(f"{folder}/{name}")) for name in store.list(folder) if name.endswith(".parquet")]
    images = [data for table in tables for data in records.image_bytes(table)]
    assert len(images) == 16
    assert all(codec.is_canonical(data) for data in images)


def test_the_serve_image_answers_alone_with_the_detector_it_ships(podman: Podman) -> None:
    (port,) = free_ports(1)
    where = ("--name=cifake-test-alone", f"--publish=127.0.0.1:{port}:3000", "--tmpfs=/var/lib/cifake:mode=1777")
    try:
        podman("run", "--detach", *HARDENED, *where, "--env=CIFAKE_AUTH=off", podman.image("serve"))
        podman.healthy("cifake-test-alone")
        verdict = classified(f"http://127.0.0.1:{port}")
        assert verdict["model"]["version"] == 0
        assert verdict["label"] in ("REAL", "FAKE", "UNSURE")
    finally:
        podman.run("rm", "--force", "--time=5", "cifake-test-alone")


@pytest.fixture(scope="module")
def service(podman: Podman, shared: Path, trained: dict[str, Any]) -> Iterator[str]:
    """The serving image beside the MLflow image, in one pod, on the registry that the train image made."""
    (port,) = free_ports(1)
    home = f"--volume={shared}:/var/lib/cifake"
    podman("pod", "create", "--name", "cifake-test-serving", f"--publish=127.0.0.1:{port}:3000")
    try:
        start = ("run", "--detach", "--pod=cifake-test-serving", *HARDENED, home)
        server = "mlflow server --host 127.0.0.1 --workers 1 --no-serve-artifacts --backend-store-uri"
        database = ["sqlite:////var/lib/cifake/mlflow.db", "--default-artifact-root", "/var/lib/cifake/mlartifacts"]
        podman(*start, "--name=cifake-test-mlflow", podman.image("mlflow"), *server.split(), *database)
        podman.healthy("cifake-test-mlflow")
        settings = ("--env=MLFLOW_TRACKING_URI=http://127.0.0.1:5000", "--env=CIFAKE_AUTH=off")
        podman(*start, *settings, "--name=cifake-test-serve", podman.image("serve"))
        podman.healthy("cifake-test-serve")
        yield f"http://127.0.0.1:{port}"
    finally:
        podman.run("pod", "rm", "--force", "--time=5", "cifake-test-serving")


def test_the_serve_image_answers_with_the_champion_and_explains_it(service: str) -> None:
    wait_for(lambda: classified(service)["model"]["version"] == 1, 60)
    heatmap = requests.post(f"{service}/explain", data=picture(), timeout=30)
    assert Image.open(io.BytesIO(heatmap.content)).format == "PNG"


LOAD = """
import json, sys
sys.path.insert(0, "/opt/airflow/dags")
from airflow.dag_processing.dagbag import DagBag
bag = DagBag("/opt/airflow/dags")
print("RESULT " + json.dumps([bag.import_errors, sorted(bag.dags)]))
"""


@pytest.mark.parametrize("runtime", ["docker", "kubernetes"])
def test_the_orchestrate_image_loads_every_dag(podman: Podman, runtime: str) -> None:
    home = "--tmpfs=/var/lib/cifake:mode=1777"
    settings = (f"--env=CIFAKE_RUNTIME={runtime}", "--env=AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT=150")
    image = podman.image("orchestrate")
    said = podman("run", "--rm", "--network=none", *HARDENED, home, *settings, image, "python", "-c", LOAD)
    errors, dags = json.loads(next(x for x in said.splitlines() if x.startswith("RESULT "))[7:])
    assert errors == {}
    assert {"cifake_pipeline", "cifake_promote", "cifake_rollout", "cifake_training"} <= set(dags)
