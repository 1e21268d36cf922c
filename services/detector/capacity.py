"""A bounded queue before the work: who cannot be answered soon is told so at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from services.detector import metrics
from services.detector.problems import ProblemError

T = TypeVar("T")
FULL = "too many requests are waiting already; try again in a second"


class Place:
    """A request's place among those that are worked on or wait for it."""

    def __init__(self, capacity: Capacity) -> None:
        self.capacity = capacity
        self._held = False

    def take(self) -> None:
        """Be one of them.

        Raises:
            ProblemError: `overloaded`, with Retry-After.
        """
        if not self._held:
            self.capacity.enter()
            self._held = True

    def leave(self) -> None:
        """Be none of them any more, or not now: while its body is still on the way."""
        if self._held:
            self.capacity.exit()
            self._held = False


class Capacity:
    """Runs blocking work, `slots` at once and `queue` waiting; each request takes a `Place` first.

    The event loop stays free to accept, refuse and answer probes; Pillow and ONNX Runtime let go of the interpreter
    while they work.
    """

    def __init__(self, slots: int, queue: int) -> None:
        self.slots, self.queue = slots, queue
        self._pool = ThreadPoolExecutor(slots, "work")
        self._inside = 0
        self._together: list[tuple[Any, asyncio.Future[Any], float]] = []

    def enter(self) -> None:
        """One more inside, or a ProblemError."""
        if self._inside >= self.slots + self.queue:
            raise ProblemError("overloaded", FULL, {"Retry-After": "1"})
        self._inside += 1
        metrics.queue_depth.set(max(0, self._inside - self.slots))

    def exit(self) -> None:
        """One less inside."""
        self._inside -= 1
        metrics.queue_depth.set(max(0, self._inside - self.slots))

    async def run(self, work: Callable[..., T], *arguments: object) -> T:
        """`work(*arguments)` in a worker thread."""
        asked = time.perf_counter()

        def timed() -> T:
            metrics.of_stage("queue").observe(time.perf_counter() - asked)
            return work(*arguments)

        return await asyncio.get_running_loop().run_in_executor(self._pool, timed)

    async def together(self, work: Callable[[list[Any]], list[T | ProblemError]], item: object) -> T:
        """The item's result of `work([item, …])`, run on the event loop with all items that came in at the same moment.

        For work shorter than a hand-over to a thread; see docs/decisions/0060-batching-without-waiting.md.

        Raises:
            ProblemError: the item's own.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self._together.append((item, future, time.perf_counter()))
        if len(self._together) == 1:
            loop.call_soon(self._drain, work)
        return await future  # type: ignore[no-any-return]

    def _drain(self, work: Callable[[list[Any]], list[Any]]) -> None:
        waiting, self._together = self._together, []
        start = time.perf_counter()
        queued = metrics.of_stage("queue")
        try:
            results = work([item for item, _, _ in waiting])
        except Exception as exc:
            results = [exc] * len(waiting)
        for (_, future, asked), result in zip(waiting, results, strict=True):
            queued.observe(start - asked)
            if future.cancelled():  # its client went away
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)
