"""A bounded queue before a fixed number of worker threads: who cannot be answered soon is told so at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from services.detector import metrics
from services.detector.problems import ProblemError

T = TypeVar("T")


class Capacity:
    """Runs blocking work, `slots` at once and `queue` waiting.

    The event loop stays free to accept, refuse and answer probes; Pillow and ONNX Runtime let go of the interpreter
    while they work.
    """

    def __init__(self, slots: int, queue: int) -> None:
        self.slots, self.queue = slots, queue
        self._pool = ThreadPoolExecutor(slots, "work")
        self._inside = 0

    def check(self) -> None:
        """Refuse early, before a body is read.

        Raises:
            ProblemError: `overloaded`, with Retry-After.
        """
        if self._inside >= self.slots + self.queue:
            detail = f"{self.queue} requests are waiting already; try again in a second"
            raise ProblemError("overloaded", detail, {"Retry-After": "1"})

    async def run(self, work: Callable[..., T], *arguments: object) -> T:
        """`work(*arguments)` in a worker thread.

        Raises:
            ProblemError: `overloaded`, as `check`.
        """
        self.check()
        self._inside += 1
        self._tell()
        asked = time.perf_counter()

        def timed() -> T:
            metrics.stage_seconds.labels("queue").observe(time.perf_counter() - asked)
            return work(*arguments)

        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, timed)
        finally:
            self._inside -= 1
            self._tell()

    def _tell(self) -> None:
        metrics.queue_depth.set(max(0, self._inside - self.slots))
