"""Three times more requests than the service can answer: it refuses the rest, keeps its latency, and recovers.

python -m benchmarks.saturation

Capacity is what a closed loop gets that keeps the queue full. Then requests are due at three times that rate whatever
comes back, and at half of it afterwards, over so many connections. The load generator runs on the same cores.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from benchmarks import common, load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--topology", default="seed")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--times", type=float, default=3)
    parser.add_argument("--connections", type=int, default=256)
    options = parser.parse_args()
    files, pixels = common.images(256)
    posts = [load.multipart("/classify", file) for file in files]
    with tempfile.TemporaryDirectory() as folder:
        common.make_home(Path(folder), common.keras_model(options.topology), options.topology, pixels)
        with common.detector_service(Path(folder), CIFAKE_SERVICE_SLOTS="2", CIFAKE_SERVICE_QUEUE="32") as (_, port):
            load.run(port, posts, 2)
            full = load.run(port, posts, options.seconds, 34)
            at = load.run(port, posts, options.seconds, options.connections, full.rate)
            over = load.run(port, posts, options.seconds, options.connections, options.times * full.rate)
            after = load.run(port, posts, options.seconds, options.connections, full.rate / 2)
    if not len(over.latencies):
        raise SystemExit(f"nothing was answered over capacity: {over.statuses}")
    tail = [float(np.percentile(each.latencies, 99)) for each in (full, at, over)]
    result = {
        "what": f"POST /classify at {options.times:g} times capacity, in an open loop",
        "seconds": options.seconds,
        "connections": options.connections,
        "closed loop, as many connections as places": {**full.summary(), "statuses": full.statuses},
        "at_capacity": {"offered_per_second": round(at.offered, 1), **at.summary(), "statuses": at.statuses},
        "over_capacity": {"offered_per_second": round(over.offered, 1), **over.summary(), "statuses": over.statuses},
        "afterwards": {"offered_per_second": round(after.offered, 1), **after.summary(), "statuses": after.statuses},
        "p99_over_capacity_by_p99_at_capacity": round(tail[2] / tail[1], 2),
        "p99_over_capacity_by_p99_in_the_closed_loop": round(tail[2] / tail[0], 2),
        "topology": options.topology,
        "machine": common.machine("onnxruntime", "bentoml"),
    }
    common.write_result("saturation", result)


if __name__ == "__main__":
    main()
