"""MLflow's webhook makes every worker look at the alias at once; nobody else's word does."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable

import pytest

from cifake_core.client.rollout import served
from cifake_core.errors import ConfigurationError
from cifake_core.registry.webhook import register
from cifake_core.settings import settings
from tests.service.conftest import Process, Registry, metric, wait_for

SECRET = "between MLflow and the detector"
PATH = "/webhooks/mlflow"


@pytest.fixture(scope="module")
def workers(registry: Registry, start_service: Callable[..., Process]) -> Process:
    """Two workers that would look at the alias once an hour."""
    service = start_service(
        registry.server.url,
        CIFAKE_SERVICE_WORKERS="2",
        CIFAKE_POLL_SECONDS="3600",
        CIFAKE_WEBHOOK_SECRET=SECRET,
    )
    wait_for(lambda: service.loaded() == 2 and served(service.url) == {1})
    return service


@pytest.fixture
def connected(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", registry.server.url)
    monkeypatch.setenv("CIFAKE_WEBHOOK_SECRET", SECRET)
    settings.cache_clear()


def delivery(body: bytes, secret: str = SECRET, at: float | None = None) -> dict[str, str]:
    """The headers of a delivery, as MLflow makes them."""
    sent = str(int(time.time() if at is None else at))
    digest = hmac.new(secret.encode(), f"id-1.{sent}.".encode() + body, hashlib.sha256).digest()
    signature = "v1," + base64.b64encode(digest).decode()
    return {"X-MLflow-Delivery-Id": "id-1", "X-MLflow-Timestamp": sent, "X-MLflow-Signature": signature}


def test_a_moved_alias_reaches_every_worker_without_a_poll(
    registry: Registry, workers: Process, connected: None
) -> None:
    done = register(workers.url + PATH)
    assert done["answered"] == 204
    assert register(workers.url + PATH)["id"] == done["id"]  # again: the same one
    second = registry.register(5)
    registry.promote(second)
    wait_for(lambda: served(workers.url) == {second}, 30)
    registry.promote(1)
    wait_for(lambda: served(workers.url) == {1}, 30)
    assert metric(workers, 'cifake_webhook_deliveries_total{outcome="looked"}') >= 2


EVENT = json.dumps(
    {"entity": "model_version_alias", "action": "created", "data": {"name": "cifake-detector", "alias": "champion"}}
).encode()
REFUSED = {
    "unsigned": lambda: {},
    "another secret": lambda: delivery(EVENT, "a guess"),
    "another body": lambda: delivery(EVENT + b" "),
    "too old": lambda: delivery(EVENT, at=time.time() - 3600),
    "from the future": lambda: delivery(EVENT, at=time.time() + 3600),
    "a time beyond all numbers": lambda: {**delivery(EVENT), "X-MLflow-Timestamp": "9" * 400},
    "a time too long to read": lambda: {**delivery(EVENT), "X-MLflow-Timestamp": "9" * 5000},
    "no time": lambda: {**delivery(EVENT), "X-MLflow-Timestamp": "now"},
    "time altered": lambda: {**delivery(EVENT, at=time.time() - 100), "X-MLflow-Timestamp": str(int(time.time()))},
}


@pytest.mark.parametrize("how", REFUSED)
def test_a_delivery_that_is_not_mlflows_is_refused(workers: Process, how: str) -> None:
    looked = metric(workers, 'cifake_webhook_deliveries_total{outcome="looked"}')
    answer = workers.post(PATH, content=EVENT, headers=REFUSED[how]())
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
    assert metric(workers, 'cifake_webhook_deliveries_total{outcome="looked"}') == looked


@pytest.mark.parametrize("body", [b"", b"[]", b"\xff", b'{"entity": 1}', EVENT.replace(b"cifake-detector", b"other")])
def test_a_genuine_delivery_about_something_else_is_taken_and_ignored(workers: Process, body: bytes) -> None:
    ignored = metric(workers, 'cifake_webhook_deliveries_total{outcome="ignored"}')
    assert workers.post(PATH, content=body, headers=delivery(body)).status_code == 204
    assert metric(workers, 'cifake_webhook_deliveries_total{outcome="ignored"}') == ignored + 1


def test_a_large_body_is_not_read_before_its_sender_is_known(workers: Process) -> None:
    answer = workers.post(PATH, content=bytes(100_000))
    assert (answer.status_code, answer.json()["code"]) == (413, "too_many_bytes")


def test_without_a_secret_there_is_no_webhook(service: Process, home: object) -> None:
    assert service.post(PATH, content=EVENT, headers=delivery(EVENT, "")).status_code == 404
    with pytest.raises(ConfigurationError, match="CIFAKE_WEBHOOK_SECRET"):
        register(service.url + PATH)


def test_a_database_without_a_server_calls_nobody(home: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIFAKE_WEBHOOK_SECRET", SECRET)
    settings.cache_clear()
    with pytest.raises(ConfigurationError, match="an MLflow server"):
        register("http://127.0.0.1:9/webhooks/mlflow")
