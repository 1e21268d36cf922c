"""Requests meant to hurt: hostile ones by the hundred, and whatever the OpenAPI document allows."""

from __future__ import annotations

import psutil

from benchmarks.hostile import requests
from benchmarks.serve_hostile import attack, memory_mb, workers
from tests.service.conftest import Process, wait_for

REQUESTS = 300
MAY_GROW_MB = 60  # what allocators keep


def test_hostile_requests_do_no_harm(service: Process, photo: bytes) -> None:
    port = int(service.url.rpartition(":")[2])
    family = psutil.Process(service.popen.pid)
    before, good = workers(family), service.post("/classify", content=photo).json()["probability_real"]
    attack(port, requests(1, 100))  # caches and thread stacks fill once
    base = memory_mb(family)
    outcome = attack(port, requests(0, REQUESTS))
    assert not outcome.wrong
    assert sum(outcome.statuses.values()) == REQUESTS
    assert workers(family) == before
    assert service.post("/classify", content=photo).json()["probability_real"] == good
    wait_for(lambda: memory_mb(family) < base + MAY_GROW_MB, 20, "the memory does not come back")


def test_a_form_of_very_many_fields_is_refused_before_it_is_parsed(service: Process) -> None:
    part = b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\n\r\n'
    head = {"Content-Type": "multipart/form-data; boundary=b"}
    answer = service.post("/classify", content=part * 200_000 + b"--b--\r\n", headers=head)
    assert answer.status_code == 422
    assert answer.elapsed.total_seconds() < 10
