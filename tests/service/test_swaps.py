"""Promotions in a row under load: `benchmarks.swap` in small, with no figure that a busy machine could change."""

from __future__ import annotations

import threading
import time

import httpx

from cifake_core.client.rollout import served
from tests.service.conftest import Process, Registry, metric, wait_for

MOVES = 8


def test_no_request_fails_and_every_answer_is_of_the_champion_or_the_one_before(
    registry: Registry, two_workers: Process, photo: bytes
) -> None:
    versions = [1, registry.register(41), registry.register(42)]
    service = two_workers
    wait_for(lambda: metric(service, "cifake_ready") == 1 and served(service.url) == {1}, 60)
    champions = [(0.0, 1)]
    answers: list[tuple[float, float, int, int]] = []
    done = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=service.url, timeout=60, trust_env=False) as http:
            while not done.is_set():
                sent = time.monotonic()
                answer = http.post("/classify", content=photo)
                version = answer.json()["model"]["version"] if answer.status_code == 200 else 0
                answers.append((sent, time.monotonic(), answer.status_code, version))

    asking = [threading.Thread(target=ask) for _ in range(4)]
    for thread in asking:
        thread.start()
    try:
        for move in range(1, MOVES + 1):
            version = versions[move % 3]
            champions.append((time.monotonic(), version))
            registry.promote(version)
            wait_for(lambda version=version: served(service.url) == {version}, 60)
    finally:
        done.set()
        for thread in asking:
            thread.join()
        registry.promote(1)
    assert {code for _, _, code, _ in answers} == {200}
    assert {version for _, _, _, version in answers} == set(versions)
    for sent, received, _, version in answers:
        reigning = max(k for k, (since, _) in enumerate(champions) if since <= sent)
        before = max(0, reigning - 1)
        assert version in {v for since, v in champions[before:] if since <= received}
