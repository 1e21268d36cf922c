"""No request, and no number of them, hurts the service."""

from __future__ import annotations

import hashlib
import re
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

import httpx
import pytest

from cifake_core.client.answers import Batch, Classification, HeatmapAnswer, ModelCard, Problem
from cifake_core.settings import settings
from services.detector import keys
from tests.service.conftest import Process, Registry, wait_for


def test_a_batch_answers_each_image_on_its_own(service: Process, photo: bytes) -> None:
    parts = [("image", photo), ("image", b"not an image"), ("image", photo)]
    batch = Batch.model_validate_json(service.post("/classify_batch", files=parts).content)
    alone = Classification.model_validate_json(service.post("/classify", content=photo).content)
    first, second, third = batch.results
    assert first.verdict == third.verdict
    assert first.verdict.probability_real == pytest.approx(alone.probability_real, abs=1e-5)
    assert second.verdict is None
    assert second.problem.code == "unsupported_format"


def test_a_batch_with_too_many_images_is_refused(service: Process) -> None:
    answer = service.post("/classify_batch", files=[("image", b"x")] * 65)
    assert answer.status_code == 413
    assert Problem.model_validate_json(answer.content).code == "too_many_images"


def test_explain_map_tells_the_map_and_its_faithfulness(service: Process, photo: bytes) -> None:
    answer = service.post("/explain_map", content=photo, params={"method": "hirescam", "target": "FAKE"})
    heatmap = HeatmapAnswer.model_validate_json(answer.content)
    assert (heatmap.method, heatmap.target, heatmap.blocks) == ("hirescam", "FAKE", ["block2"])
    assert len(heatmap.heatmap) == len(heatmap.heatmap[0]) == 32
    assert -1 <= heatmap.faithfulness <= 1


def test_the_model_card_names_blocks_and_methods(service: Process) -> None:
    card = ModelCard.model_validate_json(service.get("/model").content)
    assert [block.name for block in card.blocks] == ["block1", "block2"]
    assert "gradcam" in card.methods
    assert card.created is not None


def test_a_shrunk_image_carries_a_warning(service: Process, photo: bytes) -> None:
    import numpy as np

    from tests.service.conftest import encoded

    large = encoded(np.zeros((200, 300, 3), np.uint8), "PNG")
    warnings = service.post("/classify", content=large).json()["warnings"]
    assert any("300×200" in warning for warning in warnings)
    assert not service.post("/classify", content=photo).json()["warnings"]


def test_answers_carry_an_id_and_security_headers(service: Process, photo: bytes) -> None:
    answer = service.post("/classify", content=photo)
    assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"])
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in answer.headers
    kept = service.post("/classify", content=b"x", headers={"X-Request-ID": "trace-0123456789"})
    assert kept.headers["x-request-id"] == kept.json()["request_id"] == "trace-0123456789"
    assert service.get("/status", headers={"X-Request-ID": "a b\tc{}"}).headers["x-request-id"] != "a b\tc{}"


@pytest.fixture(scope="module")
def guarded(
    registry: Registry, start_service: Callable[..., Process], tmp_path_factory: pytest.TempPathFactory
) -> Process:
    """A service that asks for keys, of which there is one; it may be used four times in a burst."""
    file = tmp_path_factory.mktemp("secrets") / "keys"
    file.write_text(f"# the only one\nalice {hashlib.sha256(b'open sesame').hexdigest()}\n")
    asking = {"CIFAKE_AUTH": "on", "CIFAKE_API_KEYS": str(file), "CIFAKE_RATE_LIMIT": "2"}
    return start_service(registry.server.url, **asking)


@pytest.mark.parametrize("headers", [{}, {"X-API-Key": "wrong"}, {"Authorization": "Basic YTpi"}])
def test_without_the_right_key_nothing_is_answered(guarded: Process, photo: bytes, headers: dict[str, str]) -> None:
    for path in ("/classify", "/explain", "/nothing"):
        answer = guarded.post(path, content=photo, headers=headers)
        assert answer.status_code == 401
        assert Problem.model_validate_json(answer.content).code == "unauthorized"
    assert guarded.get("/status", headers=headers).status_code == 401
    assert guarded.get("/metrics", headers=headers).status_code == 200


def test_a_key_opens_and_has_its_rate(guarded: Process, photo: bytes) -> None:
    for headers in ({"X-API-Key": "open sesame"}, {"Authorization": "Bearer open sesame"}):
        assert guarded.post("/classify", content=photo, headers=headers).status_code == 200
    codes = [guarded.get("/status", headers={"X-API-Key": "open sesame"}).status_code for _ in range(40)]
    assert set(codes) == {200, 429}
    refused = guarded.get("/status", headers={"X-API-Key": "open sesame"})
    if refused.status_code == 429:
        assert int(refused.headers["retry-after"]) >= 1
    wait_for(lambda: guarded.get("/status", headers={"X-API-Key": "open sesame"}).status_code == 200, 10)
    assert "open sesame" not in guarded.log.read_text()


@pytest.mark.parametrize(
    ("host", "asked"), [("127.0.0.1", False), ("localhost", False), ("::1", False), ("0.0.0.0", True)]
)
def test_keys_are_asked_for_wherever_others_can_reach_it(
    host: str, asked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CIFAKE_HOST", host)
    settings.cache_clear()
    assert keys.needed() is asked


def test_more_than_it_can_hold_is_refused_at_once_and_then_it_recovers(
    registry: Registry, start_service: Callable[..., Process], photo: bytes
) -> None:
    service = start_service(registry.server.url, CIFAKE_SERVICE_SLOTS="1", CIFAKE_SERVICE_QUEUE="1")
    answers: list[httpx.Response] = []

    def ask() -> None:
        slow = {"method": "smooth-gradcam"}
        answers.extend(service.post("/explain", content=photo, params=slow) for _ in range(5))

    asking = [threading.Thread(target=ask) for _ in range(12)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    assert {answer.status_code for answer in answers} == {200, 503}
    refused = next(answer for answer in answers if answer.status_code == 503)
    assert refused.json()["code"] == "overloaded"
    assert refused.headers["retry-after"] == "1"
    assert service.post("/classify", content=photo).status_code == 200
    service.stop()


def test_a_refusal_needs_no_body_and_keeps_the_connection(
    registry: Registry, start_service: Callable[..., Process], photo: bytes
) -> None:
    service = start_service(registry.server.url, CIFAKE_SERVICE_SLOTS="1", CIFAKE_SERVICE_QUEUE="0")
    host, port = service.url.removeprefix("http://").split(":")
    enough = threading.Event()

    def ask() -> None:
        while not enough.is_set():
            service.post("/explain", content=photo, params={"method": "smooth-gradcam"})

    def refused() -> bool:
        """Headers only: who is not refused by them is asked for the body."""
        with socket.create_connection((host, int(port)), timeout=30) as wire:
            head = f"POST /classify HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(photo)}\r\n"
            wire.sendall(f"{head}X-Request-Id: mine-1234\r\nExpect: 100-continue\r\n\r\n".encode())
            answer = wire.recv(65536)
            if answer.startswith(b"HTTP/1.1 100"):
                return False
            assert answer.startswith(b"HTTP/1.1 503")
            assert b"\r\nx-request-id: mine-1234\r\n" in answer
            assert b"\r\nx-content-type-options: nosniff\r\n" in answer
            assert answer.endswith(b'"request_id": "mine-1234"}')
            wire.sendall(photo + b"GET /livez HTTP/1.1\r\nHost: here\r\n\r\n")
            assert wire.recv(65536).startswith(b"HTTP/1.1 200")
            return True

    def refused_without_a_body() -> bool:
        """An answer to HEAD ends with its headers, or the next answer would begin in the middle of it."""
        with socket.create_connection((host, int(port)), timeout=30) as wire:
            wire.sendall(f"HEAD /classify HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            answer = b"".join(iter(partial(wire.recv, 65536), b""))
            assert answer.endswith(b"\r\n\r\n")
            return answer.startswith(b"HTTP/1.1 503")

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        wait_for(refused, 60)
        wait_for(refused_without_a_body, 60)
    finally:
        enough.set()
        asking.join()
    assert 'code="503",route="/classify"' in service.get("/metrics").text
    service.stop()


def test_whoever_sends_slowly_keeps_nobody_else_waiting(
    registry: Registry, start_service: Callable[..., Process], photo: bytes
) -> None:
    service = start_service(registry.server.url, CIFAKE_SERVICE_SLOTS="1", CIFAKE_SERVICE_QUEUE="0")
    host, port = service.url.removeprefix("http://").split(":")
    head = f"POST /classify HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(photo)}\r\nConnection: close\r\n\r\n"
    with ExitStack() as stack:
        slow = []
        for _ in range(5):
            each = stack.enter_context(socket.create_connection((host, int(port)), timeout=10))
            each.sendall(head.encode() + photo[:100])
            slow.append(each)
            wait_for(lambda: service.post("/classify", content=photo).status_code == 200)
        for each in slow:
            each.sendall(photo[100:])
            answer = b"".join(iter(partial(each.recv, 65536), b""))
            assert answer.startswith(b"HTTP/1.1 200 ")
    service.stop()
