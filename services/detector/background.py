"""Work that no request should wait for: done in batches by one thread."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

GATHER_SECONDS = 0.25  # how long one thing may wait for others
_WAITING = 8192  # more than this at once, and the oldest are forgotten

logger = logging.getLogger("bentoml.cifake.background")


class Background(Generic[T]):
    """Hands what is put to `work`, a list at a time; the thread starts with the first.

    Args:
        name: of the thread, and in the log when `work` fails: watching must never be what stops answering.
    """

    def __init__(self, name: str, work: Callable[[list[T]], None]) -> None:
        self.name, self._work = name, work
        self._waiting: deque[T] = deque(maxlen=_WAITING)
        self._some = threading.Event()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def put(self, one: T) -> None:
        """Leave something to be done; returns at once."""
        self._waiting.append(one)
        self._some.set()
        if self._thread is None:
            with self._starting:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
                    self._thread.start()

    def _run(self) -> None:
        while True:
            self._some.wait()
            time.sleep(GATHER_SECONDS)
            self._some.clear()
            try:
                self._work([self._waiting.popleft() for _ in range(len(self._waiting))])
            except Exception:
                logger.exception("%s failed", self.name)
