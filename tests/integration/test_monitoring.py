"""The pipeline's verbs, the service, Prometheus and Alertmanager, all real, on one machine: what people would see."""

from __future__ import annotations

import http.server
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from cifake_core import pipeline_metrics
from cifake_core.images import sources
from cifake_core.settings import settings
from tests.conftest import CHECKOUT
from tests.servers import free_ports
from tests.waiting import wait_for

SECONDS = 240  # for anything to happen, on a busy machine
DASHBOARDS = CHECKOUT / "deploy/grafana/dashboards"
pytestmark = pytest.mark.timeout(1500)


@dataclass
class Watched:
    """A small stack that did its work once, and what watches it."""

    environment: dict[str, str]
    prometheus: str
    service: str
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    told: list[dict[str, Any]] = field(default_factory=list)

    def cifake(self, *arguments: str, codes: tuple[int, ...] = (0,)) -> dict[str, Any]:
        """Run a verb; its result."""
        command = [Path(sys.executable).with_name("cifake"), *arguments, "--json"]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=900)
        assert done.returncode in codes, done.stderr[-3000:]
        return json.loads(done.stdout.splitlines()[-1])

    def start(self, name: str, command: list[Any], health: str) -> None:
        """Start a program and wait until it answers."""
        with (Path(self.environment["CIFAKE_HOME"]) / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log, cwd=CHECKOUT)
        self.processes[name] = process
        wait_for(lambda: process.poll() is not None or httpx.get(health, timeout=5).status_code == 200, SECONDS, name)
        assert process.poll() is None, f"{name} did not start"

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The instant vector of an expression."""
        answer = httpx.get(f"{self.prometheus}/api/v1/query", params={"query": expression}, timeout=30).json()
        assert answer["status"] == "success", (expression, answer)
        return answer["data"]["result"]


def quick_rules(folder: Path) -> list[str]:
    """The rules, evaluated every second and with every `for` shortened, so that a test need not wait for minutes."""
    files = []
    for name in ("recording.yml", "alerts.yml"):
        rules = yaml.safe_load((CHECKOUT / "deploy/prometheus" / name).read_text())
        for group in rules["groups"]:
            group["interval"] = "1s"
            for rule in group["rules"]:
                if "for" in rule:
                    rule["for"] = "3s"
        (folder / name).write_text(yaml.safe_dump(rules))
        files.append(str(folder / name))
    return files


@pytest.fixture(scope="module")
def watched(image_source: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    sys.path.insert(0, str(CHECKOUT / "scripts"))
    import monitoring

    home = tmp_path_factory.mktemp("watched")
    gateway, alerts, prometheus, service, hook = free_ports(5)
    given = {
        "CIFAKE_HOME": str(home),
        "CIFAKE_DATA": image_source,
        "CIFAKE_PUSHGATEWAY_PORT": str(gateway),
        "CIFAKE_PUSH_GATEWAY": f"http://127.0.0.1:{gateway}",
        "CIFAKE_ALERTMANAGER_PORT": str(alerts),
        "CIFAKE_PROMETHEUS_PORT": str(prometheus),
        "CIFAKE_SERVICE_PORT": str(service),
        "CIFAKE_SCRAPE_INTERVAL": "1s",
        "CIFAKE_ALERT_WEBHOOK": f"http://127.0.0.1:{hook}/alerts",
        "CIFAKE_POLL_SECONDS": "1",
        "CIFAKE_DRIFT_MINIMUM": "20",
    }
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("CIFAKE_", "MLFLOW_TRACKING"))}
    stack = Watched({**clean, **given}, f"http://127.0.0.1:{prometheus}", f"http://127.0.0.1:{service}")
    receiver = _receiver(hook, stack.told)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in given.items():
            patch.setenv(name, value)
        settings.cache_clear()
        try:
            monitoring.write(home / "run")
            quick = monitoring.prometheus("1s") | {"rule_files": quick_rules(home)}
            (home / "run/prometheus.yml").write_text(yaml.safe_dump(quick))
            routes = monitoring.alertmanager()
            routes["route"]["routes"][0] |= {"group_wait": "1s", "group_interval": "1s"}
            (home / "run/alertmanager.yml").write_text(yaml.safe_dump(routes))
            for name, command, port, _, health in monitoring.commands():
                stack.start(name, command, f"http://127.0.0.1:{port}{health}")
            _work(stack)
            yield stack
        finally:
            for process in stack.processes.values():
                process.terminate()
            for process in stack.processes.values():
                process.wait(60)
            receiver.shutdown()
            receiver.server_close()
    settings.cache_clear()


def _receiver(port: int, told: list[dict[str, Any]]) -> http.server.HTTPServer:
    class Hook(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Hook)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def _work(stack: Watched) -> None:
    """The pipeline once, on few images, then some traffic."""
    stack.cifake("generate", "--generator", "embedded", "--train-rows", "20", "--test-rows", "10")
    version = stack.cifake("data", "build", "--train-rows", "400", "--test-rows", "200")["dataset_version"]
    version = stack.cifake("validate", "--dataset", version, codes=(0, 1)).get("dataset_version") or version
    stack.cifake("train", "--dataset", version, "--topology", "bird-lotfi", "--epochs", "2")
    stack.cifake("evaluate", "--version", "1", "--damage-rows", "50")
    stack.cifake("promote", "--version", "1", "--force", "--reason", "two epochs on few images, for this test")
    # No Airflow here: what its plugin tells, as it tells it.
    for state in ("failed", "success"):
        pipeline_metrics.dag_run("cifake_pipeline", state, time.time(), 30.0)
    serve = [Path(sys.executable).with_name("cifake"), "serve", "--port", stack.environment["CIFAKE_SERVICE_PORT"]]
    stack.start("detector", serve, f"{stack.service}/readyz")
    rows = sources.resolve().read("test", rows=60)["image"].to_pylist()
    with httpx.Client(base_url=stack.service, timeout=60) as client:
        wait_for(lambda: stack.query('cifake_requests_total{route="/metrics"}'), SECONDS, "the first scrapes")
        for part in range(2):  # twice, with a scrape between: a rate needs a series that grows
            for row in rows[30 * part : 30 * part + 30]:
                answer = client.post("/classify", content=row["bytes"]).json()
            told = {"request_id": answer["request_id"], "label": "REAL"}
            assert client.post("/feedback", json=told).status_code == 200
            assert client.post("/explain_map", content=rows[0]["bytes"]).status_code == 200
            assert client.post("/classify", content=b"not an image").status_code == 415
            seen = f'cifake_requests_total{{route="/explain_map"}} == {part + 1}'
            wait_for(lambda seen=seen: stack.query(seen), SECONDS, "the next scrape")


def panels() -> list[tuple[str, str, str]]:
    found = []
    for file in sorted(DASHBOARDS.glob("*.json")):
        for panel in json.loads(file.read_text())["panels"]:
            for each in (panel, *panel.get("panels", [])):
                found += [(file.stem, each["title"], target["expr"]) for target in each.get("targets", [])]
    return found


def test_no_panel_is_without_data(watched: Watched):
    assert len(panels()) > 40
    empty = panels()

    def all_have_data() -> bool:
        empty[:] = [panel for panel in empty if not watched.query(panel[2])]
        return not empty

    try:
        wait_for(all_have_data, 60, "data")
    except AssertionError:
        pytest.fail("\n".join(map(str, empty)))


def test_the_page_of_metrics_lists_what_is_exposed(watched: Watched):
    exposed = httpx.get(f"{watched.prometheus}/api/v1/metadata", timeout=30).json()["data"]
    exposed = {name: facts[0]["type"] for name, facts in exposed.items() if name.startswith("cifake_")}
    exposed = {name: kind for name, kind in exposed.items() if not name.endswith("_created")}
    page = (CHECKOUT / "docs/metrics.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \|([^|]*)\|[^|]*\|(.*)\|$", page, re.MULTILINE)
    listed = {name: kind for name, kind, _, _ in rows}
    assert {name: listed.get(name) for name in exposed} == exposed
    sometimes = {name for name, _, _, what in rows if " only " in f" {what} "}
    assert listed.keys() - exposed.keys() <= sometimes
    for name, kind, labels, _ in rows:
        series = watched.query(f"{name}_count" if kind == "histogram" else name)
        for each in series:
            own = each["metric"].keys() - {"__name__", "instance", "job"}
            assert own == set(re.findall(r"`(\w+)`", labels)), (name, own)


def test_an_alert_reaches_the_webhook_when_the_service_is_stopped(watched: Watched):
    def heard(status: str) -> list[dict[str, Any]]:
        alerts = [alert for message in watched.told for alert in message["alerts"]]
        return [a for a in alerts if a["labels"]["alertname"] == "CifakeServiceDown" and a["status"] == status]

    wait_for(lambda: heard("resolved"), SECONDS, "the end of the alert from before the service was started")
    watched.told.clear()
    watched.processes["detector"].terminate()
    watched.processes["detector"].wait(60)
    wait_for(lambda: heard("firing"), SECONDS, "the alert")
    alert = heard("firing")[0]
    assert alert["labels"]["severity"] == "critical"
    assert (CHECKOUT / alert["annotations"]["runbook_url"]).exists()
    assert "does not answer" in alert["annotations"]["summary"]
