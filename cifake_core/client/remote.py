"""A typed client of the detector service."""

from __future__ import annotations

import logging
import time
from types import TracebackType
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from cifake_core.client.answers import Classification, Status
from cifake_core.errors import ConfigurationError, ImageRejectedError, ServiceError
from cifake_core.settings import settings

T = TypeVar("T", bound=BaseModel)
BUSY = ("overloaded", "rate_limited")  # refusals that pass: the request is sent again
PATIENCE = 30.0  # seconds until they are believed
logging.getLogger("httpx").setLevel(logging.WARNING)  # it tells of every request at INFO


class DetectorClient:
    """Calls one detector service; use it as a context manager to close its connections.

    Args:
        url: where the service answers; default CIFAKE_SERVICE_URL.
        api_key: sent as `X-API-Key`; default CIFAKE_API_KEY.
        timeout: seconds for one request.

    Raises:
        ConfigurationError: a key that no header can hold.
        ServiceError: from every call, when the service is unreachable or answers with an error.
        ImageRejectedError: from every call that sends an image, when the service refuses that image.
    """

    def __init__(self, url: str | None = None, api_key: str | None = None, timeout: float = 30) -> None:
        self.url = (url or settings().service_url).rstrip("/")
        key = (api_key or settings().api_key or "").strip()  # a secret's file often ends in a new line
        if not (key.isascii() and key.isprintable()):
            raise ConfigurationError("CIFAKE_API_KEY: holds characters that no HTTP header may; it is not shown here")
        headers = {"X-API-Key": key} if key else {}
        try:
            self._http = httpx.Client(base_url=self.url, headers=headers, timeout=timeout, trust_env=False)
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as exc:
            raise ServiceError(f"{self.url}: not an http address ({exc})") from exc

    def __enter__(self) -> DetectorClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def classify(self, image: bytes) -> Classification:
        """The verdict on one encoded image."""
        return self._parse(Classification, self._send("POST", "/classify", content=image))

    def explain(self, image: bytes, **options: Any) -> bytes:
        """PNG of original | heatmap | overlay; `options` as in `answers.ExplainOptions`."""
        return self._send("POST", "/explain", content=image, params=options).content

    def status(self) -> Status:
        """Which model is served, since when."""
        return self._parse(Status, self._send("GET", "/status"))

    def metrics(self) -> str:
        """Its metrics in Prometheus' text format."""
        return self._send("GET", "/metrics").text

    def _send(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        if "content" in arguments:
            arguments["headers"] = {"Content-Type": "application/octet-stream"}
        give_up = time.monotonic() + PATIENCE
        while True:
            try:
                answer = self._http.request(method, path, **arguments)
            except (httpx.HTTPError, httpx.InvalidURL) as exc:
                raise ServiceError(
                    f"{self.url}: no answer ({exc or type(exc).__name__}); is it up? (`cifake serve`, or --service URL)"
                ) from exc
            if answer.is_success:
                return answer
            try:
                problem = answer.json()
                code, detail = str(problem["code"]), str(problem["detail"])
            except (ValueError, KeyError, TypeError):
                code, detail = "", answer.text[:200].strip() or answer.reason_phrase
            if code not in BUSY or time.monotonic() > give_up:
                break
            time.sleep(_seconds(answer))
        if answer.status_code in (413, 415, 422) and "content" in arguments:
            raise ImageRejectedError(code or "rejected", detail)
        raise ServiceError(f"{self.url}{path}: {answer.status_code} {detail}")

    def _parse(self, kind: type[T], answer: httpx.Response) -> T:
        try:
            return kind.model_validate_json(answer.content)
        except ValidationError as exc:
            raise ServiceError(f"{self.url}: not an answer this client reads ({exc.errors()[0]['msg']})") from exc


def _seconds(answer: httpx.Response) -> float:
    """How long the service asks to wait, between a tenth of a second and five."""
    asked = answer.headers.get("Retry-After", "")
    return min(max(float(asked), 0.1), 5.0) if asked.isdigit() else 1.0
