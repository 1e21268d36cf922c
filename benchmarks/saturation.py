"""Three times more requests than the service can answer: it refuses the rest, keeps its latency, and recovers.

python -m benchmarks.saturation

Capacity is what a closed loop gets that keeps the queue full. Then requests are due at that rate whatever comes back,
at three times that rate, and at half of it afterwards, over so many connections. The load generator runs on the same
cores. All figures are medians over rounds.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

import numpy as np

from benchmarks import common, load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--topology", default="seed")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--times", type=float, default=3)
    parser.add_argument("--connections", type=int, default=256)
    options = parser.parse_args()
    files, pixels = common.images(256)
    posts = [load.multipart("/classify", file) for file in files]
    with tempfile.TemporaryDirectory() as folder:
        common.make_home(Path(folder), common.keras_model(options.topology), options.topology, pixels)
        with common.detector_service(Path(folder), CIFAKE_SERVICE_SLOTS="2", CIFAKE_SERVICE_QUEUE="32") as (_, port):
            load.run(port, posts, 2)
            rounds = [_round(port, posts, options) for _ in range(options.rounds)]
    result = {
        "what": f"POST /classify at {options.times:g} times capacity, in an open loop; medians over rounds",
        "rounds": options.rounds,
        "seconds": options.seconds,
        "connections": options.connections,
        **{name: _median([each[name] for each in rounds]) for name in rounds[0]},
        "topology": options.topology,
        "machine": common.machine("onnxruntime", "bentoml"),
    }
    common.write_result("saturation", result)


def _round(port: int, posts: list[bytes], options: argparse.Namespace) -> dict[str, dict[str, float]]:
    full = load.run(port, posts, options.seconds, 34)
    offered = {"at capacity": full.rate, "over capacity": options.times * full.rate, "afterwards": full.rate / 2}
    loads = {name: load.run(port, posts, options.seconds, options.connections, rate) for name, rate in offered.items()}
    found = {"closed loop, as many connections as places": _told(full), **{n: _told(each) for n, each in loads.items()}}
    over = found["over capacity"]["p99 ms"]
    return found | {
        "p99 over capacity by p99 of": {
            "the closed loop": over / found["closed loop, as many connections as places"]["p99 ms"],
            "the open loop at capacity": over / found["at capacity"]["p99 ms"],
        }
    }


def _told(made: load.Load) -> dict[str, float]:
    if not len(made.latencies):
        raise SystemExit(f"nothing was answered: {made.statuses}")
    if wrong := made.statuses.keys() - {200, 429, 503}:
        raise SystemExit(f"answered {sorted(wrong)}")
    p50, p99 = (float(np.percentile(made.latencies, q)) * 1000 for q in (50, 99))
    return {"offered a second": made.offered, "answered a second": made.rate, "p50 ms": p50, "p99 ms": p99}


def _median(rounds: list[dict[str, float]]) -> dict[str, float]:
    return {name: round(statistics.median(each[name] for each in rounds), 2) for name in rounds[0]}


if __name__ == "__main__":
    main()
