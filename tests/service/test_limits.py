"""No request, and no number of them, hurts the service."""

from __future__ import annotations

import asyncio
import hashlib
import io
import re
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from starlette.requests import Request
from starlette.responses import PlainTextResponse

from cifake_core.client.answers import Batch, Classification, HeatmapAnswer, ModelCard, Problem
from cifake_core.images import codec
from cifake_core.settings import settings
from services.detector import bodies, inference, keys
from services.detector.guard import Guard
from services.detector.problems import ProblemError
from tests.service.conftest import Process, Registry, encoded, wait_for


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


def png(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("1", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_batch_of_too_many_pixels_is_refused_before_any_is_decoded(service: Process, photo: bytes) -> None:
    answer = service.post("/classify_batch", files=[("image", png(6300, 6300))] * 5)
    assert (answer.status_code, answer.json()["code"]) == (422, "too_many_pixels")
    alone = service.post("/classify_batch", files=[("image", png(10_000, 5_000)), ("image", photo)]).json()["results"]
    assert alone[0]["problem"]["code"] == "too_many_pixels"
    assert alone[1]["verdict"]


@pytest.mark.parametrize(("width", "together"), [(2500, False), (1000, True)])
def test_large_images_are_decoded_one_at_a_time(
    width: int, together: bool, monkeypatch: pytest.MonkeyPatch, photo: bytes
) -> None:
    met = threading.Barrier(2)
    small = codec.normalise(photo)

    def normalise(_: bytes) -> codec.Normalised:
        met.wait(20 if together else 0.2)
        return small

    monkeypatch.setattr(codec, "normalise", normalise)
    with ThreadPoolExecutor(2) as pool:
        outcomes = [pool.submit(inference.prepare, png(width, 2000), 32) for _ in range(2)]
    assert [outcome.exception() is None for outcome in outcomes] == [together, together]


def ask(guard: Guard, receive: Callable[[], Any]) -> Any:
    """The status with which a guard answers a post to /."""
    scope = {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": [], "state": {}}

    async def asked() -> int:
        said = []

        async def send(message: dict[str, Any]) -> None:
            said.append(message)

        await guard(scope, receive, send)
        return said[0]["status"]

    return asked()


def test_a_body_is_counted_until_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "HELD_BYTES", 1000)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": bytes(600), "more_body": False}

    async def main() -> None:
        reached, enough = asyncio.Event(), asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await bodies.read(Request(scope, receive))
            reached.set()
            await enough.wait()
            await PlainTextResponse("done")(scope, receive, send)

        guard = Guard(app, ["/"], lambda _: None, {})
        first = asyncio.create_task(ask(guard, receive))
        await reached.wait()
        assert await asyncio.wait_for(ask(guard, receive), 10) == 503
        enough.set()
        assert await first == 200
        assert await ask(guard, receive) == 200

    asyncio.run(main())


def test_a_client_that_goes_away_is_not_told_that_it_was_wrong() -> None:
    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await bodies.read(Request(scope, receive))

    assert asyncio.run(ask(Guard(app, ["/"], lambda _: None, {}), receive)) == 499


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
    ("host", "asked"), [("127.0.0.1", False), ("localhost", False), ("::1", False), ("0.0.0.0", True), (None, True)]
)
def test_keys_are_asked_for_wherever_others_can_reach_it(
    host: str | None, asked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if host is None:
        monkeypatch.delenv("CIFAKE_HOST", raising=False)
    else:
        monkeypatch.setenv("CIFAKE_HOST", host)
    settings.cache_clear()
    assert keys.needed() is asked


SESAME = [(b"x-api-key", b"open sesame")]


@pytest.fixture
def key_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(keys, "_LOOK_SECONDS", 0)
    file = tmp_path / "keys"
    file.write_text(f"alice {hashlib.sha256(b'open sesame').hexdigest()}\n")
    return file


def test_a_rate_below_one_lets_one_request_through(key_file: Path) -> None:
    slow = keys.Keys(key_file, 0.1)
    assert slow.check(SESAME) == "alice"
    with pytest.raises(ProblemError) as caught:
        slow.check(SESAME)
    assert caught.value.code == "rate_limited"
    assert caught.value.headers == {"Retry-After": "10"}


def test_without_the_file_no_key_is_right(key_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    known = keys.Keys(key_file, 0)
    text = key_file.read_text()
    assert known.check(SESAME) == "alice"
    key_file.write_text("broken")
    assert known.check(SESAME) == "alice"
    key_file.unlink()
    for _ in range(3):
        with pytest.raises(ProblemError, match="no API keys"):
            known.check(SESAME)
    assert caplog.text.count("No such file") == 1
    key_file.write_text(text)
    assert known.check(SESAME) == "alice"


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
