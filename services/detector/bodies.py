"""Images out of request bodies: multipart `image`, a raw body, or JSON base64; in memory only, within limits."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from typing import Any, NamedTuple

from pydantic import ValidationError
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, MultipartState, parse_options_header
from starlette.requests import Request

from cifake_core.client.answers import Feedback
from cifake_core.settings import settings
from services.detector.capacity import Place
from services.detector.problems import ProblemError

BODY_SECONDS = 15.0
BATCH_BYTES = 4  # a batch may hold this many times the largest single image
HELD_BYTES = 128 * 1024 * 1024  # of bodies, over all requests of this process that are not answered yet
OTHER_FIELDS = 64  # that a form may have beside its images
_OVERHEAD = 64 * 1024  # multipart headers and JSON punctuation around the images


_held = 0


class Held:
    """The memory that a request's body takes, counted from its first byte until the answer."""

    def __init__(self) -> None:
        self.bytes = 0

    def add(self, number: int) -> None:
        """So many more.

        Raises:
            ProblemError: `overloaded`.
        """
        global _held
        self.bytes += number
        _held += number
        if _held > HELD_BYTES:
            raise ProblemError("overloaded", "too many large bodies at once", {"Retry-After": "2"})

    def release(self) -> None:
        """None any more."""
        global _held
        _held -= self.bytes
        self.bytes = 0


class Body(NamedTuple):
    """A request's body, whole, and what its sender says it is."""

    data: bytes
    content_type: str | None


async def read(request: Request, images: int = 1) -> Body:
    """The whole body, of at most `images` largest images' bytes (a third more for base64).

    Raises:
        ProblemError: `too_many_bytes`; `body_timeout` when it takes longer than BODY_SECONDS; `client_gone`;
            `overloaded` when other bodies fill the memory set aside for them, or the place left meanwhile is another's.
    """
    limit = images * settings().max_image_bytes * 4 // 3 + _OVERHEAD
    claimed = request.headers.get("content-length", "")
    if claimed.isdigit() and int(claimed) > limit:
        raise _too_large(limit)
    chunks, total = [], 0
    place: Place | None = request.state.place
    held: Held = request.state.held
    try:
        async with asyncio.timeout(BODY_SECONDS):
            more = True
            while more:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise ProblemError("client_gone", f"{total:,} bytes had come")
                chunk, more = message.get("body", b""), message.get("more_body", False)
                total += len(chunk)
                if total > limit:
                    raise _too_large(limit)
                held.add(len(chunk))
                chunks.append(chunk)
                if place and str(total) != claimed:  # who is still sending keeps nobody else waiting
                    place.leave()
    except TimeoutError as exc:
        detail = f"the body was not complete after {BODY_SECONDS:g} seconds"
        raise ProblemError("body_timeout", detail, {"Connection": "close"}) from exc
    if place:
        place.take()
    return Body(b"".join(chunks), request.headers.get("content-type"))


def _too_large(limit: int) -> ProblemError:
    return ProblemError("too_many_bytes", f"the body may hold at most {limit:,} bytes", {"Connection": "close"})


def one_image(body: Body) -> bytes:
    """The one image in a body.

    Raises:
        ProblemError: no image, several, or a malformed body.
    """
    kind, options = parse_options_header(body.content_type)
    if kind == b"multipart/form-data":
        found = _form_images(body.data, options, 1)
        if len(found) != 1:
            raise ProblemError("missing_image", f"send one form field named `image`; the form has {len(found)}")
        return found[0]
    if kind == b"application/json":
        document = parse_json(body.data)
        if not isinstance(document, dict) or not isinstance(document.get("image"), str):
            raise ProblemError("missing_image", 'send {"image": "<base64>"}')
        return decode_base64(document["image"])
    if not body.data:
        raise ProblemError("missing_image", "the body is empty; send an image, a form with `image`, or JSON base64")
    return body.data


def images(body: Body) -> list[bytes]:
    """The images of a batch: form fields named `image`, or JSON {"images": [base64, …]}.

    Raises:
        ProblemError: none, more than CIFAKE_MAX_BATCH, or a malformed body.
    """
    kind, options = parse_options_header(body.content_type)
    if kind == b"multipart/form-data":
        found = _form_images(body.data, options, settings().max_batch)
    elif kind == b"application/json":
        document = parse_json(body.data)
        texts = document.get("images") if isinstance(document, dict) else None
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise ProblemError("missing_image", 'send {"images": ["<base64>", …]}')
        found = [decode_base64(text) for text in texts[: settings().max_batch + 1]]
    else:
        raise ProblemError("missing_image", "send a form with fields named `image`, or JSON with base64 `images`")
    if not found:
        raise ProblemError("missing_image", "the batch is empty")
    if len(found) > settings().max_batch:
        raise ProblemError("too_many_images", f"a batch may hold at most {settings().max_batch} images")
    return found


def _form_images(body: bytes, options: dict[bytes, bytes], most: int) -> list[bytes]:
    parts = form_parts(body, options.get(b"boundary"), most + OTHER_FIELDS)
    return [data for name, data in parts if name == "image"]


def parse_json(body: bytes) -> Any:
    """The JSON document.

    Raises:
        ProblemError: `invalid_request`.
    """
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise ProblemError("invalid_request", "the body is not JSON, though Content-Type says so") from exc


def feedback(body: Body) -> Feedback:
    """The true label that a body tells.

    Raises:
        ProblemError: `invalid_request`.
    """
    try:
        return Feedback.model_validate(parse_json(body.data))
    except ValidationError as exc:
        first = exc.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ProblemError("invalid_request", f"{where or 'body'}: {first['msg']}") from exc


def decode_base64(text: str) -> bytes:
    """The bytes of base64 text, with or without a `data:` prefix.

    Raises:
        ProblemError: `invalid_request`.
    """
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise ProblemError("invalid_request", "an image is not valid base64") from exc


def form_parts(body: bytes, boundary: bytes | None, most: int) -> list[tuple[str, bytes]]:
    """The (field name, content) pairs of a multipart/form-data body.

    Raises:
        ProblemError: `invalid_request`: no boundary, a body that does not follow it, or more than `most` fields.
    """
    parts: list[tuple[str, bytes]] = []
    headers: dict[bytes, bytes] = {}
    field, value, data = bytearray(), bytearray(), bytearray()

    def header_end() -> None:
        headers[bytes(field).lower()] = bytes(value)
        field.clear()
        value.clear()

    def part_end() -> None:
        if len(parts) == most:  # parsing is Python's pace: a large body of tiny fields would take seconds
            raise ProblemError("invalid_request", f"the form has more than {most} fields")
        _, options = parse_options_header(headers.get(b"content-disposition"))
        parts.append((options.get(b"name", b"").decode("utf-8", "replace"), bytes(data)))
        headers.clear()
        data.clear()

    if not boundary:
        raise ProblemError("invalid_request", "multipart/form-data without a boundary")
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_header_field": lambda d, start, end: field.extend(d[start:end]),
                "on_header_value": lambda d, start, end: value.extend(d[start:end]),
                "on_header_end": header_end,
                "on_part_data": lambda d, start, end: data.extend(d[start:end]),
                "on_part_end": part_end,
            },
        )
        parser.write(body)
        complete = parser.state == MultipartState.END
    except FormParserError as exc:
        raise ProblemError("invalid_request", "the multipart body does not follow its boundary") from exc
    if not complete:
        raise ProblemError("invalid_request", "the multipart body breaks off")
    return parts
