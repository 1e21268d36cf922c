"""`/classify` under load, beside the obvious BentoML service and plain FastAPI with ONNX Runtime, in one run.

python -m benchmarks.serve_throughput

The same model, images and form posts for all three, one server process each; the servers take turns in rounds, so
that a busy machine slows all alike. Ratios are medians over the rounds. The load generator runs on the same cores.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil

from benchmarks import common, load
from benchmarks.serve_hostile import memory_mb

OURS, KERAS, PLAIN = "this service", "BentoML, Keras predict", "FastAPI, ONNX Runtime"
CONNECTIONS = (1, 8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--topology", default="seed")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5, help="per round, server and number of connections")
    options = parser.parse_args()
    files, pixels = common.images(256)
    posts = [load.multipart("/classify", file) for file in files]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        model = common.keras_model(options.topology)
        bundle = common.make_home(Path(folder), model, options.topology, pixels)
        model.save(Path(folder) / "model.keras")
        starts, ports, families = {}, {}, {}
        for name in (KERAS, PLAIN, OURS):
            process, ports[name] = stack.enter_context(server(name, Path(folder), bundle))
            _agree(ports[OURS if OURS in ports else name], ports[name], files[:8])
            warm = load.run(ports[name], posts, 2)
            families[name] = psutil.Process(process.pid)
            starts[name] = {
                "ready_seconds": round(process.ready_seconds, 2),
                "memory_mb": round(memory_mb(families[name]), 1),
                "warm_up_per_second": round(warm.rate, 1),
            }
        result = _measure(options, ports, families, posts)
    result |= {"starts": starts, "topology": options.topology, "parameters": model.count_params()}
    packages = ("tensorflow-cpu", "keras", "onnxruntime", "bentoml", "fastapi", "uvicorn")
    common.write_result("serve_throughput", {**result, "machine": common.machine(*packages)})


@contextmanager
def server(name: str, folder: Path, bundle: Path) -> Iterator[tuple[Any, int]]:
    """One of the three, ready: its process and port."""
    if name == OURS:
        with common.detector_service(folder) as started:
            yield started
        return
    port = common.free_port()
    serve = common.CHECKOUT / ".venv-serve/bin/python"
    python = sys.executable if name == KERAS or not serve.exists() else str(serve)
    where = ["--host", "127.0.0.1", "--port", str(port)]
    if name == KERAS:
        command = [python, "-m", "bentoml", "serve", "benchmarks.rivals.bento_keras:Detector", *where]
        environment = {"RIVAL_MODEL": str(folder / "model.keras"), "BENTOML_HOME": str(folder / "bentoml")}
    else:
        command = [python, "-m", "uvicorn", "benchmarks.rivals.fastapi_onnx:app", "--no-access-log", *where]
        environment = {"RIVAL_MODEL": str(bundle / "score.onnx")}
    with common.running(command, port, "/readyz", folder / f"rival-{port}.log", **environment) as process:
        yield process, port


def _agree(one: int, other: int, files: list[bytes]) -> None:
    scores = [
        [
            httpx.post(f"http://127.0.0.1:{port}/classify", files={"image": file}, timeout=60, trust_env=False).json()
            for file in files
        ]
        for port in (one, other)
    ]
    apart = max(abs(a["probability_real"] - b["probability_real"]) for a, b in zip(*scores, strict=True))
    if apart > 1e-4:
        raise SystemExit(f"the servers disagree by {apart:.2g}")


def _measure(
    options: argparse.Namespace, ports: dict[str, int], families: dict[str, psutil.Process], posts: list[bytes]
) -> dict[str, Any]:
    names = (OURS, KERAS, PLAIN)
    loads: dict[tuple[str, int], list[load.Load]] = {(name, n): [] for name in names for n in CONNECTIONS}
    stages = _stages(ports[OURS])
    busy = {name: _cpu_seconds(family) for name, family in families.items()}
    for _ in range(options.rounds):
        for n in CONNECTIONS:
            for name in names:
                loads[name, n].append(load.run(ports[name], posts, options.seconds, n))
    after = _stages(ports[OURS])
    busy = {name: _cpu_seconds(family) - busy[name] for name, family in families.items()}
    if refused := {name: made[0].statuses for (name, _), made in loads.items() if any(each.refused for each in made)}:
        raise SystemExit(f"not every request was answered: {refused}")
    table: dict[str, Any] = {}
    for n in CONNECTIONS:
        for name in names:
            made = loads[name, n]
            rates = [each.rate for each in made]
            both = common.percentiles(np.concatenate([each.latencies for each in made]))
            table.setdefault(f"{n} connections", {})[name] = {"per_second": round(float(np.median(rates)), 1), **both}
    return {
        "what": "POST /classify, one 32×32 JPEG in a form, one server process each, closed loop",
        "rounds": options.rounds,
        "seconds": options.seconds,
        "loads": table,
        "this service answers times as many": {
            f"{n} connections": {
                name: round(float(np.median([a.rate / b.rate for a, b in _pairs(loads, name, n)])), 2)
                for name in (KERAS, PLAIN)
            }
            for n in CONNECTIONS
        },
        "p99 of others over this service's": {
            f"{n} connections": {
                name: round(float(np.median([_p99(b) / _p99(a) for a, b in _pairs(loads, name, n)])), 2)
                for name in (KERAS, PLAIN)
            }
            for n in CONNECTIONS
        },
        "server_cpu_ms_per_request": {
            name: round(busy[name] * 1000 / sum(len(each.latencies) for n in CONNECTIONS for each in loads[name, n]), 3)
            for name in names
        },
        "stage_mean_ms": {
            name: round((after[name][0] - before[0]) / (after[name][1] - before[1]) * 1000, 3)
            for name, before in stages.items()
            if after[name][1] > before[1]
        },
    }


def _pairs(loads: dict[tuple[str, int], list[load.Load]], name: str, n: int) -> list[tuple[load.Load, load.Load]]:
    return list(zip(loads[OURS, n], loads[name, n], strict=True))


def _p99(made: load.Load) -> float:
    return float(np.percentile(made.latencies, 99))


def _cpu_seconds(family: psutil.Process) -> float:
    """Processor time of a server's processes so far; other work on the machine hardly changes it."""
    times = [each.cpu_times() for each in (family, *family.children(recursive=True))]
    return sum(each.user + each.system for each in times)


def _stages(port: int) -> dict[str, tuple[float, float]]:
    """Seconds and number of each stage so far, and of the whole request."""
    text = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text
    found: dict[str, dict[str, float]] = {}
    pattern = r'^cifake_(?:stage|request)_seconds_(sum|count)\{(?:stage|route)="([^"]+)"\} (\S+)'
    for kind, name, value in re.findall(pattern, text, re.MULTILINE):
        found.setdefault(name, {})[kind] = float(value)
    wanted = ("queue", "decode", "preprocess", "model", "/classify")
    return {name: (found[name]["sum"], found[name]["count"]) for name in wanted if name in found}


if __name__ == "__main__":
    main()
