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
from services.detector.guard import HEADERS, identify
from services.detector.problems import ProblemError

_HEAD = b"HTTP/1.1 503 Service Unavailable\r\n" + b"".join(
    b"%s: %s\r\n" % header
    for header in ((b"content-type", problems.MEDIA_TYPE.encode()), (b"retry-after", b"1"), *HEADERS)
)
_BODY = bytes(problems.response("overloaded", FULL, "<id>").body).split(b"<id>")
# What uvicorn asks of the cycle before the next one: it is over, and its body is of no interest.
_OVER: Any = SimpleNamespace(response_complete=True, message_event=asyncio.Event())


def protocol(place: Callable[[str], Place | None]) -> type[HttpToolsProtocol]:
    """uvicorn's protocol, with `scope["state"]["place"]` taken where `place(path)` names one for a POST.

    Any other method, a request behind one that is not answered yet, and one whose client does not read its answers are
    left to the guard.
    """

    class Refusing(HttpToolsProtocol):
        def on_headers_complete(self) -> None:
            path = self.url.partition(b"?")[0].decode("latin-1")
            busy = (self.cycle and not self.cycle.response_complete) or self.flow.write_paused
            plain = self.parser.get_method() == b"POST" and not self.parser.should_upgrade()
            wanted = place(path) if plain and not busy else None
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
            own = b"x-request-id: %s\r\ncontent-length: %d\r\n" % (said, len(body))
            self.cycle = _OVER
            self.transport.write(_HEAD + own + (b"" if kept else b"connection: close\r\n") + b"\r\n" + body)
            if not kept:
                self.transport.close()
            self.on_response_complete()

    return Refusing
