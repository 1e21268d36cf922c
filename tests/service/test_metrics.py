"""What Prometheus is told, by a service of two workers."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import psutil

from tests.service.conftest import Process, metric, wait_for

RULES = Path(__file__).resolve().parents[2] / "deploy/prometheus"
OTHERS = ("cifake_drift_", "cifake_feedback_", "cifake_dataset_", "cifake_generation_", "cifake_dag_")  # not set here


def test_every_metric_that_rules_use_is_exported(two_workers: Process, photo: bytes) -> None:
    two_workers.post("/classify", content=photo)
    two_workers.post("/classify", content=b"not an image")
    rules = "".join((RULES / name).read_text() for name in ("alerts.yml", "recording.yml"))
    wanted = {name for name in re.findall(r"\bcifake_[a-z_]+", rules) if not name.startswith(OTHERS)}
    exported = two_workers.get("/metrics").text
    missing = {name for name in wanted if not re.search(rf"^{name}[{{ ]", exported, re.MULTILINE)}
    assert "cifake_ready" in wanted
    assert not missing
    for bound in re.findall(r'le="([\d.]+)"', rules):
        assert f'le="{bound}"' in exported


def test_a_good_champion_is_told_as_one(two_workers: Process) -> None:
    assert metric(two_workers, "cifake_ready") == 1
    assert metric(two_workers, "cifake_registry_reachable") == 1
    assert metric(two_workers, "cifake_model_is_champion") == 1
    assert metric(two_workers, 'cifake_champion_gate_evidence{version="1"}') == 1
    assert metric(two_workers, 'cifake_champion_created_timestamp_seconds{version="1"}') > 1.7e9
    info = r'cifake_model_info{dataset_version="0{16}",name="cifake-detector",topology="tiny",version="1"} 1.0'
    assert re.search(info, two_workers.get("/metrics").text)


def test_requests_are_counted_once_by_route_and_code(two_workers: Process, photo: bytes) -> None:
    series = 'cifake_requests_total{code="200",route="/classify"}'
    before = metric(two_workers, series) or 0
    for _ in range(20):
        assert two_workers.post("/classify", content=photo).status_code == 200
    assert metric(two_workers, series) == before + 20
    two_workers.get("/never/heard/of/it")
    assert metric(two_workers, 'cifake_requests_total{code="404",route="other"}') >= 1
    assert "never" not in two_workers.get("/metrics").text


def test_a_killed_worker_takes_its_gauges_but_not_its_counts_along(two_workers: Process, photo: bytes) -> None:
    series = 'cifake_requests_total{code="200",route="/classify"}'
    for _ in range(10):
        two_workers.post("/classify", content=photo)
    before = metric(two_workers, series)
    children = [p for p in psutil.Process(two_workers.popen.pid).children() if "service.py" in " ".join(p.cmdline())]
    children = children or [p for p in psutil.Process(two_workers.popen.pid).children() if "--worker-id" in p.cmdline()]
    assert len(children) == 2
    os.kill(children[0].pid, signal.SIGKILL)
    wait_for(lambda: not psutil.pid_exists(children[0].pid))
    wait_for(lambda: metric(two_workers, "cifake_ready") == 1, 60, "the new worker never got ready")
    assert metric(two_workers, series) == before
    assert metric(two_workers, "cifake_queue_depth") == 0
