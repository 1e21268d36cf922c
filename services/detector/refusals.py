"""A place for each request for work as soon as its headers are there, or a refusal made on the spot.

At several times capacity nearly every request is refused, and what a refusal costs comes off what is answered. So it is
written from uvicorn's protocol, before there is a task, a scope or a body.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from services.detector import metrics, problems
from services.detector.capacity import FULL, Place
from services.detector.problems import ProblemError

_BODY = bytes(problems.response("overloaded", FULL, "<id>").body).split(b"<id>")
# What uvicorn asks of the cycle before the next one: it is over, and its body is of no interest.
_OVER: Any = SimpleNamespace(response_complete=True, message_event=asyncio.Event())


def protocol(
    place: Callable[[str], Place | None],
    identify: Callable[[list[tuple[bytes, bytes]]], str],
    headers: list[tuple[bytes, bytes]],
) -> type[HttpToolsProtocol]:
    """uvicorn's protocol, with `scope["state"]["place"]` taken where `place(path)` names one.

    Args:
        place: path → the place that a request for it needs.
        identify: request headers → the request's id.
        headers: sent with every refusal.
    """
    always = b"".join(b"%s: %s\r\n" % header for header in [(b"retry-after", b"1"), *headers])
    head = (
        b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: %s\r\n" % problems.MEDIA_TYPE.encode()
        + always
        + b"x-request-id: %s\r\ncontent-length: %d\r\n%s\r\n%s"
    )

    class Refusing(HttpToolsProtocol):
        def on_headers_complete(self) -> None:
            path = self.url.partition(b"?")[0].decode("latin-1")
            # Behind a request that is not answered yet, or an answer not read: the guard sees to it in its turn.
            busy = (self.cycle and not self.cycle.response_complete) or self.flow.write_paused
            wanted = None if busy or self.parser.should_upgrade() else place(path)
            if not wanted:
                super().on_headers_complete()
                return
            start = time.perf_counter()
            try:
                wanted.take()
            except ProblemError:
                self._refuse()
                metrics.answered(path, 503, time.perf_counter() - start)
                return
            self.scope["state"]["place"] = wanted
            try:
                super().on_headers_complete()
            except BaseException:
                wanted.leave()
                raise

        def _refuse(self) -> None:
            said, kept = identify(self.headers).encode(), self.parser.should_keep_alive()
            body = said.join(_BODY)
            self.cycle = _OVER
            self.transport.write(head % (said, len(body), b"" if kept else b"connection: close\r\n", body))
            if not kept:
                self.transport.close()
            self.on_response_complete()

    return Refusing
