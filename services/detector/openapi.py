"""The OpenAPI document: what FastAPI cannot see for itself, because bodies are read by hand and within limits."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from cifake_core.client.answers import Feedback, Problem
from services.detector.problems import CODES, MEDIA_TYPE

# The smallest honest example: a 2×2 PNG.
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAIAAAD91JpzAAAAFklEQVR4nGM4IScnd0KOQU7uxJ07cgAe4ATjVCFAkwAAAABJRU5ErkJggg=="
_BINARY = {"type": "string", "format": "binary"}
_BASE64 = {"type": "string", "format": "base64-image", "examples": [PNG]}
_EXAMPLES = {
    "invalid_request": "block: no block 'conv9'; this model has block1, block2, block3",
    "no_model": "cifake-detector has no alias 'champion' at http://127.0.0.1:5000; train and promote one",
    "not_found": "Not Found",
}


def problem_responses(*codes: str) -> dict[int | str, dict[str, Any]]:
    """The documented answers that have these problem codes."""
    made: dict[int | str, dict[str, Any]] = {}
    for code in codes:
        status, title = CODES[code]
        example = Problem(
            type=f"urn:cifake:problem:{code}",
            title=title,
            status=status,
            detail=_EXAMPLES.get(code, title.lower()),
            code=code,
            request_id="5f0c54a1f4d04d7f8a3a2d4b8a7f3c21",
        ).model_dump()
        content = {"schema": {"$ref": "#/components/schemas/Problem"}, "examples": {}}
        entry = made.setdefault(status, {"description": title, "content": {MEDIA_TYPE: content}})
        entry["content"][MEDIA_TYPE]["examples"][code] = {"summary": title, "value": example}
    return made


ALWAYS = problem_responses("internal", "unauthorized", "rate_limited")
NO_MODEL = {**ALWAYS, **problem_responses("no_model")}
METRICS: dict[int | str, dict[str, Any]] = {
    **ALWAYS,
    200: {"description": "Prometheus text format", "content": {"text/plain": {"schema": {"type": "string"}}}},
}
_IMAGE = (
    *("empty", "corrupt", "missing_image", "invalid_request", "too_many_pixels", "too_many_frames", "too_many_scans"),
    *("unsupported_format", "too_many_bytes", "body_timeout", "overloaded", "no_model"),
)


def takes_one_image() -> dict[str, Any]:
    """Arguments of a route whose body is one image."""
    form = {"type": "object", "properties": {"image": _BINARY}, "required": ["image"]}
    document = {"type": "object", "properties": {"image": _BASE64}, "required": ["image"]}
    content: dict[str, Any] = {
        "multipart/form-data": {"schema": form},
        "application/json": {"schema": document, "examples": {"png": {"value": {"image": PNG}}}},
    }
    kinds = ("image/jpeg", "image/png", "image/webp", "application/octet-stream")
    content |= {kind: {"schema": _BINARY} for kind in kinds}
    return _arguments(content, _IMAGE)


def takes_images() -> dict[str, Any]:
    """Arguments of a route whose body is a batch."""
    form = {
        "type": "object",
        "properties": {"image": {"type": "array", "items": _BINARY, "minItems": 1}},
        "required": ["image"],
    }
    document = {
        "type": "object",
        "properties": {"images": {"type": "array", "items": _BASE64, "minItems": 1}},
        "required": ["images"],
    }
    content = {
        "multipart/form-data": {"schema": form},
        "application/json": {"schema": document, "examples": {"png": {"value": {"images": [PNG]}}}},
    }
    codes = ("missing_image", "invalid_request", "too_many_bytes", "too_many_images", "too_many_pixels")
    return _arguments(content, (*codes, "body_timeout", "overloaded", "no_model"))


def explains(media_type: str | None = None) -> dict[str, Any]:
    """Arguments of a route that explains one image; `media_type` when it answers with something else than JSON."""
    arguments = takes_one_image()
    if media_type:
        picture = {"description": "The picture", "content": {media_type: {"schema": _BINARY}}}
        arguments["responses"] = {**arguments["responses"], 200: picture}
    return arguments


def takes_feedback() -> dict[str, Any]:
    """Arguments of a route whose body is `Feedback`."""
    content = {"application/json": {"schema": Feedback.model_json_schema()}}
    codes = ("invalid_request", "too_many_bytes", "body_timeout", "overloaded", "unknown_request", "no_feedback")
    return _arguments(content, codes)


def _arguments(content: dict[str, Any], codes: tuple[str, ...]) -> dict[str, Any]:
    return {
        "responses": {**ALWAYS, **problem_responses(*codes)},
        "openapi_extra": {"requestBody": {"required": True, "content": content}},
    }


def document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document."""
    made = app.openapi()
    schemas = made["components"]["schemas"]
    schemas["Problem"] = Problem.model_json_schema()
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    return made
