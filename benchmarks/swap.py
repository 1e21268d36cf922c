"""The service under constant load while its champion changes again and again: failures, versions, latency, memory.

python -m benchmarks.swap

A real MLflow server, a service of two workers, and a client in a process of its own that sends images at a constant
rate whatever comes back. After a quiet time the alias is moved by hand a few times, which the workers find by polling;
then, told by MLflow's webhook, a few times by hand again, and then by forced promotions (judged first, like any) and
rollbacks in turn. An answer is wrong when it names a version that was neither champion while it was made nor just
before.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks import common

VERSIONS = 4
SECRET = "of this benchmark"
IDLE_SECONDS = 2  # after which the client leaves a connection
QUEUE = 256  # requests that may wait in a worker: a busy machine is to slow answers down, not to make them fail
WEBHOOKS_KNOWN = 5  # seconds that MLflow's server keeps its list of webhooks; its default is 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=float, default=100, help="requests a second")
    parser.add_argument("--swaps", type=int, default=50)
    parser.add_argument("--by-hand", type=int, default=6, help="moves by hand: found by polling, and told by webhook")
    parser.add_argument("--quiet", type=float, default=20, help="seconds before and after")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--topology", default="seed")
    parser.add_argument("--load", nargs=2, metavar=("PORT", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.load:
        asyncio.run(_load(int(options.load[0]), Path(options.load[1]), options.rate))
        return
    with tempfile.TemporaryDirectory() as folder:
        common.write_result("swap", _measure(options, Path(folder)))


def _measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    with ExitStack() as stack:
        tracking = stack.enter_context(_mlflow(folder / "mlflow"))
        os.environ |= {"CIFAKE_HOME": str(folder / "home"), "MLFLOW_TRACKING_URI": tracking}
        os.environ |= {"CIFAKE_WEBHOOK_SECRET": SECRET, "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}
        (folder / "service").mkdir()
        files, pixels = common.images(200)
        _register(options.topology, pixels, folder / "bundles")
        from cifake_core.registry.promotion import promote
        from cifake_core.registry.webhook import register

        promote("1", force=True, reason="the first")
        process, port = stack.enter_context(
            common.detector_service(
                folder / "service", MLFLOW_TRACKING_URI=tracking, CIFAKE_SERVICE_WORKERS=str(options.workers),
                CIFAKE_POLL_SECONDS="10", CIFAKE_WEBHOOK_SECRET=SECRET, CIFAKE_SERVICE_QUEUE=str(QUEUE),
            )
        )  # fmt: skip
        url = f"http://127.0.0.1:{port}"
        (folder / "images").mkdir()
        for number, data in enumerate(files):
            (folder / "images" / f"{number}.jpg").write_bytes(data)
        load = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.swap", "--rate", str(options.rate), "--load", str(port), str(folder)],
            cwd=common.CHECKOUT,
        )
        stack.callback(load.kill)
        _wait_until_served(url, 1)
        time.sleep(5)
        quiet = [_pause(options.quiet)]
        before = _memory(process.pid)
        polled = [_by_hand(url, k) for k in range(options.by_hand)]
        register(f"{url}/webhooks/mlflow")
        time.sleep(WEBHOOKS_KNOWN + 1)
        told = [_by_hand(url, k) for k in range(options.by_hand)]
        early = _memory(process.pid)
        moves = [_decide(url, promote, k) for k in range(options.swaps)]
        quiet.append(_pause(options.quiet))
        after = _memory(process.pid)
        (folder / "stop").touch()
        load.wait(60)
        answers = json.loads((folder / "answers.json").read_text())
    return _result(options, answers, quiet, polled, told, moves, (before, early, after))


def _decide(url: str, promote: Any, number: int) -> dict[str, float]:
    """A promotion or rollback by the code that `cifake` runs, until all workers serve the version."""
    from cifake_core.registry.promotion import rollback

    version = _next(number)
    start = time.time()
    if number % 2:
        rollback(reason="benchmark")
    else:
        promote(str(version), force=True, reason="benchmark")
    return {"version": version, "start": start, "served": _wait_until_served(url, version)}


def _by_hand(url: str, number: int) -> dict[str, float]:
    """The alias moved as a person would in MLflow, until all workers serve the version."""
    from cifake_core.mlflow_client import client
    from cifake_core.settings import MODEL_NAME

    version = _next(number)
    start = time.time()
    client().set_registered_model_alias(MODEL_NAME, "champion", str(version))
    return {"version": version, "start": start, "served": _wait_until_served(url, version)}


def _next(number: int) -> int:
    """Version 1 and the others in turn: 2, 1, 3, 1, 4, 1, 2, …"""
    return 1 if number % 2 else 2 + (number // 2) % (VERSIONS - 1)


def _result(
    options: argparse.Namespace,
    answers: list[list[float]],
    quiet: list[tuple[float, float]],
    polled: list[dict[str, float]],
    told: list[dict[str, float]],
    moves: list[dict[str, float]],
    memory: tuple[dict[str, float], ...],
) -> dict[str, Any]:
    everything = [*polled, *told, *moves]
    champions = [(0.0, 1), *((move["start"], int(move["version"])) for move in everything)]
    wrong = 0
    for sent, seconds, code, version in answers:
        if code != 200:
            continue
        at = [v for t, v in champions if t <= sent + seconds]
        since = max((i for i, (t, _) in enumerate(champions) if t <= sent), default=0)
        wrong += version not in {v for _, v in champions[max(0, since - 1) : len(at)]}
    # A promotion is judged first, on the same cores: what that costs is another matter than the swap.
    swaps = [(m["start"], m["served"]) for m in (*told, *moves[1::2])]
    judging = [s for t, s, _, _ in answers if any(m["start"] <= t <= m["served"] for m in moves[::2])]
    swapping = [s for t, s, _, _ in answers if any(a <= t <= b for a, b in swaps)]
    calm = [s for t, s, _, _ in answers if any(a <= t <= b for a, b in quiet)]
    before, early, after = memory
    return {
        "what": f"{options.swaps} promotions and rollbacks in a row under a constant load, {options.workers} workers",
        "topology": options.topology,
        "rate": options.rate,
        "requests": len(answers),
        "failed": sum(code != 200 for _, _, code, _ in answers),
        "failed, by code": dict(Counter(str(int(code)) for _, _, code, _ in answers if code != 200)),
        "answers of a version that was neither champion nor the one before": wrong,
        "requests a second, held": round(len(answers) / (answers[-1][0] - answers[0][0]), 1),
        "latency": {
            "quiet": common.percentiles(calm),
            "during swaps": common.percentiles(swapping),
            "while a candidate is judged on the same cores": common.percentiles(judging),
        },
        "p99 during swaps, times quiet": round(float(np.percentile(swapping, 99) / np.percentile(calm, 99)), 2),
        "seconds until every worker serves it": {
            "alias moved by hand, polling every 10 s": _spread(polled),
            "alias moved by hand, webhook": _spread(told),
            "promotion with its judgement, webhook": _spread(moves[::2]),
            "rollback, webhook": _spread(moves[1::2]),
        },
        "resident MB of all processes": {
            "before any swap": before, f"after {2 * options.by_hand}": early,
            f"after {2 * options.by_hand} and {options.swaps}": after,
        },
        f"growth over the {options.swaps}": round(after["rss"] / early["rss"] - 1, 4),
        "growth over all": round(after["rss"] / before["rss"] - 1, 4),
        "machine": common.machine("onnxruntime", "bentoml", "mlflow"),
    }  # fmt: skip


def _spread(moves: list[dict[str, float]]) -> dict[str, float]:
    seconds = [move["served"] - move["start"] for move in moves]
    return {"median": round(statistics.median(seconds), 2), "most": round(max(seconds), 2), "n": len(seconds)}


def _pause(seconds: float) -> tuple[float, float]:
    start = time.time()
    time.sleep(seconds)
    return start, time.time()


def _wait_until_served(url: str, version: int) -> float:
    from cifake_core.client.rollout import served
    from cifake_core.errors import ServiceError

    deadline = time.time() + 120
    while time.time() < deadline:
        try:
            if served(url) == {version}:
                return time.time()
        except ServiceError:
            pass
        time.sleep(0.05)
    raise SystemExit(f"version {version} is not served after 120 s")


def _memory(pid: int) -> dict[str, float]:
    """Resident and unique memory of a process and its children, in MB."""
    family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    infos = [member.memory_full_info() for member in family]
    return {kind: round(sum(getattr(i, kind) for i in infos) / 1e6, 1) for kind in ("rss", "uss")}


def _mlflow(folder: Path) -> Any:
    """A context manager: an MLflow server that may call this machine; its URL."""
    from contextlib import contextmanager

    from cryptography.fernet import Fernet

    @contextmanager
    def server() -> Any:
        folder.mkdir()
        port = common.free_port()
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--no-serve-artifacts"]
        command += ["--default-artifact-root", (folder / "artifacts").as_uri()]
        allowed = {
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http,https",
            "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
            "MLFLOW_WEBHOOK_CACHE_TTL": str(WEBHOOKS_KNOWN),
            "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": Fernet.generate_key().decode(),
        }
        with common.running(command, port, "/health", folder / "log", **allowed):
            yield f"http://127.0.0.1:{port}"

    return server()


def _register(topology: str, pixels: np.ndarray, folder: Path) -> None:
    """Versions of untrained networks with other weights each, on a dataset version that holds the images."""
    import keras

    from cifake_core import bundle
    from cifake_core.images import assemble
    from cifake_core.mlflow_client import client, experiment_id
    from cifake_core.settings import MODEL_NAME
    from cifake_core.storage import Store
    from cifake_core.training import topologies
    from cifake_core.training.export import export

    data = assemble.build(Store(), train_rows=200, test_rows=200).version
    api, experiment = client(), experiment_id()
    api.create_registered_model(MODEL_NAME)
    for number in range(1, VERSIONS + 1):
        keras.utils.set_random_seed(number)
        model, where = topologies.build(topology), folder / str(number)
        export(model, where, pixels[:32], topology=topology, dataset_version=data, seed=number)
        run = api.create_run(experiment).info.run_id
        api.log_artifacts(run, str(where), bundle.ARTIFACT_PATH)
        tags = {"dataset_version": data, "bundle_sha256": bundle.sha256(where / bundle.FILE)}
        api.create_model_version(MODEL_NAME, f"runs:/{run}/detector", run, tags=tags)


async def _load(port: int, folder: Path, rate: float) -> None:
    """Send images at a constant rate until FOLDER/stop is there; then write what came back to FOLDER/answers.json."""
    images = [file.read_bytes() for file in sorted((folder / "images").iterdir())]
    head = "POST /classify HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/jpeg\r\nContent-Length: {}\r\n\r\n"
    requests = [head.format(len(data)).encode() + data for data in images]
    free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter, float]] = []
    answers: list[tuple[float, float, int, int]] = []

    async def connection() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while free:
            reader, writer, used = free.pop()
            # The server closes what is idle for five seconds; a request sent at that moment would be lost on the way.
            if not reader.at_eof() and time.monotonic() - used < IDLE_SECONDS:
                return reader, writer
            writer.close()
        return await asyncio.open_connection("127.0.0.1", port)

    async def ask(request: bytes) -> None:
        sent, start = time.time(), time.perf_counter()
        code, version = 0, 0
        try:
            reader, writer = await connection()
            writer.write(request)
            lines = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
            length = next(int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length"))
            body = await reader.readexactly(length)
            code = int(lines[0].split()[1])
            version = json.loads(body)["model"]["version"] if code == 200 else 0
            free.append((reader, writer, time.monotonic()))
            if code != 200:
                print(f"{code}: {body.decode()}", file=sys.stderr, flush=True)
        except (OSError, asyncio.IncompleteReadError, ValueError, KeyError, StopIteration) as exc:
            print(f"failed after {time.perf_counter() - start:.2f} s: {exc!r}", file=sys.stderr, flush=True)
        answers.append((sent, time.perf_counter() - start, code, version))

    asking: set[asyncio.Task[None]] = set()
    start, number = time.perf_counter(), 0
    while not (folder / "stop").exists():
        task = asyncio.create_task(ask(requests[number % len(requests)]))
        asking.add(task)
        task.add_done_callback(asking.discard)
        number += 1
        await asyncio.sleep(max(0.0, start + number / rate - time.perf_counter()))
    await asyncio.gather(*asking)
    (folder / "answers.json").write_text(json.dumps(sorted(answers)))


if __name__ == "__main__":
    main()
