"""Waiting for what a test has started: no sleeps of a guessed length, but a look again and again until a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable

import httpx


def wait_for(ready: Callable[[], object], seconds: float = 60, what: str = "") -> None:
    """Ask until `ready` says yes; a server that does not answer yet is a no. `what` is named when time is up."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if ready():
                return
        except httpx.HTTPError:
            pass
        assert time.monotonic() < deadline, f"waited {seconds:g} s for {what or 'it'}"
        time.sleep(0.1)
