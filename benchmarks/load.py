"""A load generator: HTTP/1.1 over kept connections, one thread, bytes prepared beforehand.

Closed loop: each connection sends its next request when the answer to the last is there. Open loop (`rate`):
requests are due at that rate whatever comes back; one that finds no connection free waits for one, and its latency
counts from when it was due. It runs as a process of its own, so that it shares cores with the server but no
interpreter with the benchmark.
"""

from __future__ import annotations

import argparse
import json
import selectors
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import common


def multipart(path: str, image: bytes) -> bytes:
    """A POST of one image as form field `image`."""
    head = b'Content-Disposition: form-data; name="image"; filename="a.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
    body = b"--b\r\n" + head + image + b"\r\n--b--\r\n"
    lines = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    return f"{lines}Content-Length: {len(body)}\r\n\r\n".encode() + body


@dataclass
class Connection:
    """One kept connection; `sent` is 0 while it waits for work."""

    wire: socket.socket
    sent: float = 0
    answer: bytearray = field(default_factory=bytearray)


def generate(port: int, requests: Sequence[bytes], seconds: float, connections: int, rate: float) -> dict[str, Any]:
    """Send for that long; `latencies` and `statuses` are of all answers, in order of arrival."""
    selector = selectors.DefaultSelector()
    idle: list[Connection] = []
    latencies: list[float] = []
    statuses: list[int] = []
    count = 0

    def connect() -> Connection:
        wire = socket.create_connection(("127.0.0.1", port))
        wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made = Connection(wire)
        selector.register(wire, selectors.EVENT_READ, made)
        return made

    def send(each: Connection, due: float) -> None:
        nonlocal count
        request = requests[count % len(requests)]
        count += 1
        each.sent = due
        each.wire.sendall(request)

    def receive(each: Connection) -> None:
        data = each.wire.recv(65536)
        each.answer += data
        head = each.answer.find(b"\r\n\r\n")
        if not data or (head >= 0 and len(each.answer) >= head + 4 + _length(each.answer[:head])):
            if data:
                latencies.append(time.perf_counter() - each.sent)
                statuses.append(int(each.answer[9:12]))
            closed = not data or b"connection: close" in each.answer[:head].lower()
            each.answer.clear()
            if closed:
                if not each.sent:  # idle for so long that the server closed it
                    idle.remove(each)
                selector.unregister(each.wire)
                each.wire.close()
                each = connect()
            each.sent = 0
            idle.append(each)

    idle += [connect() for _ in range(connections)]
    start = time.perf_counter()
    end, due = start + seconds, start
    while (now := time.perf_counter()) < end:
        if rate:
            while due <= now and idle:
                send(idle.pop(), due)
                due += 1 / rate
        else:
            while idle:
                send(idle.pop(), now)
        wait = max(0.0, (due if rate and idle else end) - now)
        for key, _ in selector.select(wait):
            receive(key.data)
    measured = time.perf_counter() - start
    for key in list(selector.get_map().values()):
        key.data.wire.close()
    return {"seconds": measured, "sent": count, "latencies": latencies, "statuses": statuses}


def _length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        if line[:15].lower() == b"content-length:":
            return int(line[15:])
    return 0


@dataclass(frozen=True)
class Load:
    """What came of a load: `rate` good answers a second, their latencies (seconds), and how many others."""

    rate: float
    offered: float
    latencies: np.ndarray
    refused: int
    statuses: dict[int, int]

    def summary(self) -> dict[str, Any]:
        """For a result file."""
        found = common.percentiles(self.latencies) if len(self.latencies) else {"n": 0}
        return {"per_second": round(self.rate, 1), **found}


def run(port: int, requests: Sequence[bytes], seconds: float, connections: int = 8, rate: float = 0) -> Load:
    """Run the generator as its own process."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "requests.npy"
        np.save(file, np.array(requests, object), allow_pickle=True)
        command = [sys.executable, "-m", "benchmarks.load", str(port), str(file), str(seconds), str(connections)]
        done = subprocess.run([*command, str(rate)], capture_output=True, text=True, cwd=common.CHECKOUT)
    if done.returncode:
        raise SystemExit(done.stderr)
    made = json.loads(done.stdout)
    latencies, statuses = np.array(made["latencies"]), np.array(made["statuses"])
    good = statuses == 200
    kinds = {int(k): int(n) for k, n in zip(*np.unique(statuses, return_counts=True), strict=True)}
    offered = made["sent"] / made["seconds"]
    return Load(float(good.sum() / made["seconds"]), offered, latencies[good], int((~good).sum()), kinds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, kind in (("port", int), ("requests", str), ("seconds", float), ("connections", int), ("rate", float)):
        parser.add_argument(name, type=kind)
    options = parser.parse_args()
    requests = list(np.load(options.requests, allow_pickle=True))
    print(json.dumps(generate(options.port, requests, options.seconds, options.connections, options.rate)))


if __name__ == "__main__":
    main()
