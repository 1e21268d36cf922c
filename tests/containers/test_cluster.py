"""The rendered `local` overlay, played by podman; the pipeline in it, each step a pod made by KubernetesPodOperator.

The Kubernetes API that Airflow's own pods talk to is `pod_api`: it runs the steps' pods with podman, and allows each
service account what the overlay's Roles say. One pod is killed, one fails.
"""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from tests.containers.airflow import Airflow
from tests.containers.conftest import CHECKOUT, Podman, answers, classified, free_ports, wait_for
from tests.containers.play import PLAYED, Object, playable, pod_of
from tests.containers.pod_api import PodApi

KUBECTL = CHECKOUT / ".venv-deploy/bin/kubectl"
NETWORK = "cifake-test-cluster"
PUBLISHED = {"mlflow": 5000, "airflow-api-server": 8080, "detector": 3000, "object-store": 8333}
TOKEN_FOLDER = "/var/run/secrets/kubernetes.io/serviceaccount"
PIPELINE = {"train_rows": 6000, "test_rows": 600}
RECIPE = {True: {"topology": "bird-lotfi", "epochs": 6}, False: {"topology": "seed", "epochs": 12}}
RUN_HERE = {
    "Deployment": {"airflow-api-server", "airflow-dag-processor", "detector", "mlflow"},
    "Job": {"airflow-migrate", "mlflow-migrate", "setup"},
    "StatefulSet": {"airflow-scheduler", "airflow-triggerer", "object-store", "postgres"},
}
# Nothing here schedules, scales, budgets, admits or filters: these are checked statically only.
NOT_RUN_HERE = {"HorizontalPodAutoscaler", "Namespace", "NetworkPolicy", "PodDisruptionBudget", "ServiceAccount"}
STOOD_IN_FOR = {"PodTemplate", "Role", "RoleBinding", "Service"}  # by pod_api, and by aliases on podman's network
HELD = {"ConfigMap", "Secret"}
pytestmark = pytest.mark.timeout(3600)


@dataclass
class Cluster:
    """What podman plays of the overlay."""

    podman: Podman
    folder: Path
    objects: list[Object]
    ports: dict[str, int]
    api: PodApi
    played: dict[tuple[str, str], str] = field(default_factory=dict)  # (kind, name) → podman's pod

    def play(self, item: Object, address: str, port: int) -> None:
        """Play a workload under its name on the network; give it its service account's token, as a kubelet does."""
        kind, name = item["kind"], item["metadata"]["name"]
        spec = pod_of(item)
        if spec.get("automountServiceAccountToken"):
            where = {"KUBERNETES_SERVICE_HOST": address, "KUBERNETES_SERVICE_PORT": str(port)}
            token = f"token-{spec['serviceAccountName']}"
            spec["volumes"].append({"name": token, "hostPath": {"path": str(self.folder / token), "type": "Directory"}})
            for container in spec["containers"]:
                container["env"] = [*container.get("env", []), *({"name": n, "value": v} for n, v in where.items())]
                container["volumeMounts"].append({"name": token, "mountPath": TOKEN_FOLDER, "readOnly": True})
        options = ["--network", f"{NETWORK}:alias={name}"]
        if name in PUBLISHED:
            options += ["--publish", f"127.0.0.1:{self.ports[name]}:{PUBLISHED[name]}"]
        self.podman("kube", "play", *options, "-", input=playable(item, self.objects), timeout=900)  # init containers
        self.played[kind, name] = {"Deployment": f"{name}-pod", "Job": f"{name}-pod", "StatefulSet": f"{name}-0"}[kind]

    def states(self, kind: str, name: str) -> dict[str, str]:
        """Container → state and exit code."""
        pod = self.played[kind, name]
        listed = json.loads(self.podman("ps", "--all", "--filter", f"pod={pod}", "--format", "json"))
        return {c["Names"][0]: f"{c['State']} {c['ExitCode']}" for c in listed if not c["IsInfra"]}

    def story(self, kind: str, name: str) -> str:
        """States and logs of a workload."""
        states = self.states(kind, name)
        return "\n".join(f"{each}: {state}\n{self.podman.logs(each)}" for each, state in states.items())

    def url(self, name: str) -> str:
        """Where a workload answers on this machine."""
        return f"http://127.0.0.1:{self.ports[name]}"

    def secret(self, name: str) -> str:
        """A secret's value."""
        return (self.folder / "k8s/overlays/local/secrets" / name).read_text().strip()

    def airflow(self) -> Airflow:
        """Airflow, logged in."""
        return Airflow(self.url("airflow-api-server"), json.loads(self.secret("airflow/passwords.json"))["admin"])


def render(folder: Path, settings: dict[str, str]) -> list[Object]:
    """The local overlay's objects, with secrets of their own and these settings besides."""
    shutil.copytree(CHECKOUT / "k8s", folder / "k8s", ignore=shutil.ignore_patterns("secrets"))
    secrets = folder / "k8s/overlays/local/secrets"
    subprocess.run([sys.executable, CHECKOUT / "deploy/make_secrets.py", secrets], check=True)
    overlay = folder / "k8s/overlays/test"
    overlay.mkdir()
    literals = [f"{name}={value}" for name, value in settings.items()]
    generated = [{"name": "cifake-settings", "behavior": "merge", "literals": literals}] if literals else []
    (overlay / "kustomization.yaml").write_text(
        yaml.safe_dump({"namespace": "cifake", "resources": ["../local"], "configMapGenerator": generated})
    )
    done = subprocess.run([KUBECTL, "kustomize", overlay], check=True, capture_output=True, text=True)
    return [each for each in yaml.safe_load_all(done.stdout) if each]


def tokens(folder: Path, address: str) -> dict[str, str]:
    """A folder for each service account, as a kubelet mounts it, and a certificate; token → account."""
    certificate, key = folder / "api.crt", folder / "api.key"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=kubernetes"),
            *("-addext", f"subjectAltName=IP:{address}", "-keyout", key, "-out", certificate),
        ],
        check=True,
        capture_output=True,
    )
    made = {}
    for account in ("airflow-scheduler", "airflow-triggerer"):
        mounted = folder / f"token-{account}"
        mounted.mkdir()
        shutil.copy(certificate, mounted / "ca.crt")
        (mounted / "namespace").write_text("cifake")
        (mounted / "token").write_text(f"token-of-{account}")
        made[f"token-of-{account}"] = account
    return made


@pytest.fixture(scope="module")
def cluster(podman: Podman, real_data: str | None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if not KUBECTL.exists():
        pytest.skip("no kubectl: run `make deploy-tools`")
    folder = tmp_path_factory.mktemp("cluster")
    objects = render(folder, {"CIFAKE_DATA": "s3://cifake/source"} if real_data else {})
    workloads = sorted(
        (o for o in objects if o["kind"] in PLAYED), key=lambda o: int(o["metadata"]["labels"]["cifake/stage"])
    )
    templates = [o["template"]["spec"] for o in objects if o["kind"] == "PodTemplate"]
    podman.need(*{c["image"] for spec in [*map(pod_of, workloads), *templates] for c in spec["containers"]})
    ports = dict(zip(PUBLISHED, free_ports(len(PUBLISHED)), strict=True))
    socket = folder / "podman.sock"
    service = subprocess.Popen([podman.command, "system", "service", "--time=0", f"unix://{socket}"], cwd=CHECKOUT)
    before = {kind: set(podman(kind, "ls", "--quiet", "--noheading").split()) for kind in ("volume", "secret")}
    podman("network", "create", NETWORK)
    address = json.loads(podman("network", "inspect", NETWORK))[0]["subnets"][0]["gateway"]
    api = PodApi(podman, socket, NETWORK, objects, tokens(folder, address))
    cluster = Cluster(podman, folder, objects, ports, api)
    port = 0
    try:
        wait_for(socket.exists, 30)
        for stage in range(5):
            now = [o for o in workloads if o["metadata"]["labels"]["cifake/stage"] == str(stage)]
            for item in now:
                cluster.play(item, address, port)
            if not port:  # the network's address exists since a pod joined it
                port = api.start(address, folder / "api.crt", folder / "api.key")
            for item in (each for each in now if each["kind"] == "Job"):
                done(cluster, item["metadata"]["name"])
        if real_data:
            upload(cluster, Path(real_data))
        yield cluster
    finally:
        if port:
            api.stop()
        for pod in cluster.played.values():
            podman.run("pod", "rm", "--force", "--time=3", pod)
        podman.run("network", "rm", "--force", NETWORK)
        for kind, names in before.items():
            if made := set(podman(kind, "ls", "--quiet", "--noheading").split()) - names:
                podman.run(kind, "rm", *made)
        service.terminate()
        service.wait(30)


def done(cluster: Cluster, job: str) -> None:
    """Wait until a Job's pod has succeeded."""
    wait_for(lambda: set(cluster.states("Job", job).values()) == {"exited 0"}, 600, lambda: cluster.story("Job", job))


def store(cluster: Cluster) -> Any:
    """A client of the object store."""
    import boto3

    login = {"aws_access_key_id": "admin", "aws_secret_access_key": cluster.secret("object-store/s3-secret-key")}
    return boto3.client("s3", endpoint_url=cluster.url("object-store"), region_name="us-east-1", **login)


def upload(cluster: Cluster, source: Path) -> None:
    """Put the first real images into the store, where CIFAKE_DATA points the steps to."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    s3 = store(cluster)
    for side, rows in (("train", 12_000), ("test", 3_000)):
        with pq.ParquetFile(source / f"{side}.parquet") as whole:
            table = pa.Table.from_batches([next(whole.iter_batches(rows))])
        buffer = io.BytesIO()
        pq.write_table(table, buffer)
        s3.put_object(Bucket="cifake", Key=f"source/{side}.parquet", Body=buffer.getvalue())


def test_exactly_these_objects_run(cluster: Cluster) -> None:
    found: dict[str, set[str]] = {}
    for item in cluster.objects:
        found.setdefault(item["kind"], set()).add(item["metadata"]["name"])
    assert set(found) == set(RUN_HERE) | NOT_RUN_HERE | STOOD_IN_FOR | HELD
    assert {kind: found[kind] for kind in RUN_HERE} == RUN_HERE
    for kind, names in RUN_HERE.items():
        for name in names:
            states = cluster.states(kind, name)
            ended = {state for each, state in states.items() if kind == "Job" or each.endswith("-schema")}
            running = {state for each, state in states.items() if kind != "Job" and not each.endswith("-schema")}
            assert ended <= {"exited 0"}, cluster.story(kind, name)
            assert running == (set() if kind == "Job" else {"running 0"}), cluster.story(kind, name)


@pytest.mark.parametrize(
    ("name", "path"), [("mlflow", "/health"), ("airflow-api-server", "/api/v2/version"), ("detector", "/livez")]
)
def test_a_service_answers_over_http(cluster: Cluster, name: str, path: str) -> None:
    wait_for(lambda: answers(cluster.url(name) + path), 600, lambda: cluster.story("Deployment", name))


def test_mlflow_asks_who_is_calling(cluster: Cluster) -> None:
    url = f"{cluster.url('mlflow')}/api/2.0/mlflow/experiments/search"
    body = {"max_results": 1}
    wait_for(lambda: answers(f"{cluster.url('mlflow')}/health"), 600)
    assert requests.post(url, json=body, timeout=60).status_code == 401
    login = ("detector", cluster.secret("mlflow-detector/password"))
    assert requests.post(url, json=body, auth=login, timeout=60).status_code == 200


@pytest.fixture(scope="module")
def run(cluster: Cluster, real_data: str | None) -> str:
    """A finished run of the pipeline; the pod of its training was killed once."""
    wait_for(lambda: answers(cluster.url("airflow-api-server") + "/api/v2/version"), 600)
    killed: list[str] = []

    def strike(pod: Object) -> bool:
        if killed or pod["metadata"]["labels"].get("task_id") != "train":
            return False
        killed.append(pod["metadata"]["name"])
        return True

    cluster.api.strike = strike
    airflow = cluster.airflow()
    path = airflow.trigger("cifake_pipeline", {**PIPELINE, **RECIPE[bool(real_data)]})
    assert airflow.wait(path, 2400) == "success", airflow.story(path)
    assert killed
    return path


def test_the_pipeline_runs_as_pods_and_the_detector_swaps_to_the_promoted_model(cluster: Cluster, run: str) -> None:
    promoted = cluster.airflow().result(run, "promote")
    assert promoted["promoted"], promoted["reasons"]
    assert classified(cluster.url("detector"))["model"]["version"] == promoted["version"]


def test_a_killed_pod_is_tried_again(cluster: Cluster, run: str) -> None:
    tries = {name: task["try_number"] for name, task in cluster.airflow().tasks(run).items()}
    assert tries.pop("train") == 2
    assert set(tries.values()) == {1}
    ends = [
        pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"]
        for pod in cluster.api.seen.values()
        if pod["metadata"]["labels"]["task_id"] == "train"
    ]
    assert sorted(ends) == [0, 137]


def test_a_pod_that_was_called_wrongly_fails_its_task_at_once(cluster: Cluster, run: str) -> None:
    airflow = cluster.airflow()
    path = airflow.trigger("cifake_promote", {"version": "99", "reason": "there is none"})
    assert airflow.wait(path, 600) == "failed", airflow.story(path)
    promote = airflow.tasks(path)["promote"]
    assert (promote["state"], promote["try_number"]) == ("failed", 1)
    assert "99" in "\n".join(airflow.log(path, "promote", 1))


def test_pods_are_hardened_removed_and_started_within_airflows_rights(cluster: Cluster, run: str) -> None:
    assert len(cluster.api.seen) >= 8
    for pod in cluster.api.seen.values():
        rights = pod["spec"]["containers"][0]["securityContext"]
        assert rights["readOnlyRootFilesystem"]
        assert rights["capabilities"] == {"drop": ["ALL"]}
        assert pod["spec"]["serviceAccountName"] == "step"
    wait_for(lambda: not cluster.api.pods, 60, lambda: str(cluster.api.pods))
    assert cluster.api.refused == []


def test_a_pool_bounds_the_pods_that_draw_and_a_killed_one_is_gone_on_with(
    cluster: Cluster, run: str, real_data: str | None
) -> None:
    if not real_data:
        pytest.skip("the embedded generator draws CIFAR-10's classes, and there are no real images of them here")
    s3, at_once, killed, kept = store(cluster), [0], [], []

    def finished(pod: Object) -> list[str]:
        """Shards of a pod that are in the store."""
        numbers = [int(a.partition("=")[2]) for a in pod["spec"]["containers"][0]["args"] if a.startswith("--shard=")]
        names = {f"train-{n:05d}.parquet" if n < 10 else f"test-{n - 10:05d}.parquet" for n in numbers}
        listed = s3.list_objects_v2(Bucket="cifake", Prefix="generation/").get("Contents", [])
        return sorted(names & {each["Key"].rsplit("/", 1)[1] for each in listed if "/parts/" not in each["Key"]})

    def strike(pod: Object) -> bool:
        """Kill the first pod of which a shard is in the store; count those that run meanwhile."""
        if pod["metadata"]["labels"].get("task_id") != "generate":
            return False
        drawing = [p for p in cluster.api.pods.values() if p["metadata"]["labels"].get("task_id") == "generate"]
        at_once.append(sum(p["status"]["phase"] == "Running" for p in drawing))
        if killed or not finished(pod):
            return False
        killed.append(pod["metadata"]["labels"]["map_index"])
        kept.extend(finished(pod))
        return True

    cluster.api.strike = strike
    airflow = cluster.airflow()
    pool = airflow.call("GET", "/pools/shards")
    assert pool["include_deferred"]
    airflow.call("PATCH", "/dags/cifake_training", json={"is_paused": True})  # the published version would start it
    conf = {"generator": "embedded", "train_rows": 400, "test_rows": 100, "rows_per_task": 60}
    path = airflow.trigger("cifake_dataset", conf)
    assert airflow.wait(path, 1500) == "success", airflow.story(path)

    listed = airflow.call("GET", f"{path}/taskInstances")["task_instances"]
    tries = {str(t["map_index"]): t["try_number"] for t in listed if t["task_id"] == "generate"}
    assert tries == {str(index): 2 if [str(index)] == killed else 1 for index in range(4)}
    assert max(at_once) == pool["slots"] == 2
    results = s3.list_objects_v2(Bucket="cifake", Prefix="results/cifake_dataset/")["Contents"]
    drawn = {
        each["Key"].rsplit("-", 1)[1]: json.loads(s3.get_object(Bucket="cifake", Key=each["Key"])["Body"].read())
        for each in results
        if "/generate-" in each["Key"]
    }
    assert sum(each["rows"] for each in drawn.values()) == 250
    again = drawn[f"{killed[0]}.json"]["shards"]
    assert {each["shard"] + ".parquet" for each in again if not each["drawn"]} >= set(kept) != set()
