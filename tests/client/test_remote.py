"""The client against a server that is busy at first."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from cifake_core.client.remote import DetectorClient
from cifake_core.errors import ConfigurationError, ServiceError
from tests.servers import answering


@pytest.fixture
def busy() -> Iterator[tuple[str, list[int]]]:
    """A service's address, and the refusals (status) it still has to give before it answers."""
    refusals: list[int] = []

    def answer(_: str) -> tuple[int, dict[str, str], bytes]:
        status = refusals.pop(0) if refusals else 200
        code = {429: "rate_limited", 503: "overloaded", 200: ""}.get(status, "no_model")
        body = json.dumps({"code": code, "detail": "later"}).encode() if code else b"figures 1\n"
        return 503 if code == "no_model" else status, {"Retry-After": "0"}, body

    with answering(answer) as url:
        yield url, refusals


def test_a_busy_service_is_asked_again(busy: tuple[str, list[int]]) -> None:
    url, refusals = busy
    refusals += [503, 429, 503]
    with DetectorClient(url) as client:
        assert client.metrics() == "figures 1\n"
    assert not refusals


def test_a_service_without_a_model_is_not(busy: tuple[str, list[int]]) -> None:
    url, refusals = busy
    refusals += [0, 0]
    with DetectorClient(url) as client, pytest.raises(ServiceError, match="503 later"):
        client.metrics()
    assert refusals == [0]


def test_a_keys_new_line_is_left_out_and_a_key_that_no_header_holds_is_not_shown(busy: tuple[str, list[int]]) -> None:
    with DetectorClient(busy[0], api_key="s3cret\n") as client:
        assert client.metrics() == "figures 1\n"
    with pytest.raises(ConfigurationError, match="CIFAKE_API_KEY") as caught:
        DetectorClient(busy[0], api_key="s3cret\nkéy")
    assert "s3cret" not in str(caught.value)
