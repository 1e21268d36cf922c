"""Ten thousand hostile requests: no 5xx, no dead worker, memory back to base, and good answers afterwards.

python -m benchmarks.serve_hostile

The requests are those of `benchmarks.hostile`.
"""

from __future__ import annotations

import argparse
import socket
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks import common
from benchmarks.hostile import Hostile, good_images, requests


@dataclass
class Outcome:
    """What came back: how often each status, by kind of request; and what must not have been."""

    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


def attack(port: int, hostile: Iterator[Hostile], at_once: int = 8) -> Outcome:
    """Send them all, `at_once` side by side; slow ones have threads of their own."""
    outcome, lock = Outcome(), threading.Lock()

    def one(each: Hostile) -> None:
        status, answer = _send(port, each)
        with lock:
            outcome.statuses[each.kind, status] += 1
            if status >= 500 or b"Traceback" in answer:
                outcome.wrong.append(f"{each.kind}: {answer[:600]!r} to {each.wire[:300]!r}")

    slow: list[threading.Thread] = []
    with ThreadPoolExecutor(at_once) as pool:
        waiting = threading.Semaphore(2 * at_once)  # requests are made as they are sent, not all beforehand

        def done(_: Any) -> None:
            waiting.release()

        for each in hostile:
            if each.slow:
                slow.append(threading.Thread(target=one, args=(each,)))
                slow[-1].start()
                continue
            waiting.acquire()
            pool.submit(one, each).add_done_callback(done)
    for thread in slow:
        thread.join()
    return outcome


def _send(port: int, each: Hostile) -> tuple[int, bytes]:
    """The answer's status and beginning; 0 when the service closed without one, which is right for broken HTTP."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as wire:
        try:
            if each.slow:
                wire.sendall(each.wire[:-900])
                for _ in range(40):  # a byte now and then; the service's patience ends first
                    wire.sendall(b"x")
                    wire.settimeout(0.5)
                    try:
                        return _status(wire.recv(4096))
                    except TimeoutError:
                        continue
                wire.settimeout(60)
            else:
                wire.sendall(each.wire[: each.leave])
            if each.leave is not None:
                return 0, b""
            if each.wire.startswith(b"POST") is False or b"chunked" in each.wire[:4000]:
                wire.shutdown(socket.SHUT_WR)
            return _status(wire.recv(4096))
        except (ConnectionError, BrokenPipeError):
            return 0, b""


def _status(answer: bytes) -> tuple[int, bytes]:
    parts = answer.split(b" ", 2)
    return (int(parts[1]) if len(parts) > 1 and parts[1].isdigit() else 0), answer


def memory_mb(process: psutil.Process) -> float:
    """Proportional set size of a process and all its children."""
    family = [process, *process.children(recursive=True)]
    return sum(each.memory_full_info().pss for each in family if each.is_running()) / 1e6


def settled_mb(process: psutil.Process, below: float, seconds: float = 30) -> float:
    """Memory as soon as it is below that, or after so many seconds: the last requests take a moment to end."""
    deadline = time.monotonic() + seconds
    while (now := memory_mb(process)) > below and time.monotonic() < deadline:
        time.sleep(0.5)
    return now


def workers(process: psutil.Process) -> set[int]:
    """The pids of a process and all its children."""
    return {process.pid, *(child.pid for child in process.children(recursive=True))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    _, pixels = common.images(32)
    with tempfile.TemporaryDirectory() as folder:
        common.make_home(Path(folder), common.keras_model("seed"), "seed", pixels)
        with common.detector_service(Path(folder), CIFAKE_POLL_SECONDS="10") as (service, port):
            result = _measure(port, psutil.Process(service.pid), options)
    common.write_result("serve_hostile", result)
    if result["wrong"] or not result["same_workers"] or not result["same_answer"]:
        raise SystemExit(1)


def _measure(port: int, process: psutil.Process, options: argparse.Namespace) -> dict[str, Any]:
    import httpx

    def classify() -> float:
        url = f"http://127.0.0.1:{port}/classify"
        return float(httpx.post(url, content=good_images()[0], trust_env=False).json()["probability_real"])

    good, before = classify(), workers(process)
    attack(port, requests(options.seed + 1, 500))  # caches and thread stacks fill once
    base = memory_mb(process)
    start = time.perf_counter()
    outcome = attack(port, requests(options.seed, options.count))
    seconds = time.perf_counter() - start
    table: dict[str, dict[str, int]] = {}
    for (kind, status), number in sorted(outcome.statuses.items()):
        table.setdefault(kind, {})[str(status or "closed")] = number
    return {
        "what": "hostile requests, eight at once, then a good one",
        "requests": sum(outcome.statuses.values()),
        "seed": options.seed,
        "seconds": round(seconds, 1),
        "statuses": dict(sorted(_totals(outcome).items())),
        "by_kind": table,
        "wrong": outcome.wrong[:20],
        "same_workers": workers(process) == before,
        "same_answer": classify() == good,
        "memory_mb": {"base": round(base, 1), "after": round(settled_mb(process, base), 1)},
        "machine": common.machine("bentoml", "pillow", "onnxruntime"),
    }


def _totals(outcome: Outcome) -> dict[str, int]:
    totals: Counter[str] = Counter()
    for (_, status), number in outcome.statuses.items():
        totals[str(status or "closed")] += number
    return totals


if __name__ == "__main__":
    main()
