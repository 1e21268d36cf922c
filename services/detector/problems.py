"""Errors as RFC 9457 problem details with a stable `code`; no stack trace leaves the process."""

from __future__ import annotations

import json

from starlette.responses import Response

from cifake_core.client.answers import Problem
from cifake_core.errors import ImageRejectedError

TYPE = "urn:cifake:problem:"
MEDIA_TYPE = "application/problem+json"

# code → (HTTP status, title). A code, once published, keeps its meaning.
CODES: dict[str, tuple[int, str]] = {
    "empty": (422, "The image is empty"),
    "unsupported_format": (415, "Not a JPEG, PNG or WebP image"),
    "too_many_bytes": (413, "The body or image has too many bytes"),
    "too_many_pixels": (422, "The image has too many pixels"),
    "too_many_frames": (422, "The image is an animation"),
    "corrupt": (422, "The image data is damaged"),
    "too_many_scans": (422, "The image would take too long to decode"),
    "missing_image": (422, "No image in the request"),
    "invalid_request": (422, "The request is not valid"),
    "too_many_images": (413, "Too many images in one request"),
    "body_timeout": (408, "The body came too slowly"),
    "client_gone": (499, "The client went away before its body was complete"),  # for the log and the metrics alone
    "unauthorized": (401, "An API key is needed"),
    "rate_limited": (429, "Too many requests with this key"),
    "overloaded": (503, "The service is at capacity"),
    "no_model": (503, "No model is loaded yet"),
    "no_feedback": (503, "Feedback cannot be kept now"),
    "not_found": (404, "No such page"),
    "unknown_request": (404, "No verdict under this request id"),
    "method_not_allowed": (405, "This method is not allowed here"),
    "internal": (500, "Something went wrong inside the service"),
}

SEE_LOG = "the service's log has more under this request id"


class ProblemError(Exception):
    """Raised anywhere in a request; becomes its answer. `headers` go with it."""

    def __init__(self, code: str, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.headers = headers or {}


def problem(code: str, detail: str, request_id: str | None = None) -> Problem:
    """The problem's document."""
    status, title = CODES[code]
    return Problem(type=f"{TYPE}{code}", title=title, status=status, detail=detail, code=code, request_id=request_id)


def response(code: str, detail: str, request_id: str | None = None, headers: dict[str, str] | None = None) -> Response:
    """The problem as an HTTP answer."""
    status, title = CODES[code]
    # As `problem` is, at a tenth of its cost: a service that is too busy writes thousands a second.
    said = {"type": f"{TYPE}{code}", "title": title, "status": status, "detail": detail, "code": code}
    return Response(json.dumps({**said, "request_id": request_id}), status, headers, MEDIA_TYPE)


def of_image(exc: ImageRejectedError) -> ProblemError:
    """The problem that a refused image is."""
    return ProblemError(exc.reason if exc.reason in CODES else "corrupt", str(exc))
