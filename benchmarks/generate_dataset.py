"""A dataset by the embedded generator: images a second, and the same bytes whatever happens on the way.

python -m benchmarks.generate_dataset

Draws one plan twice: by one process undisturbed, and by four of which the first run is ended by `kill -9` half-way and
then started again. Both are assembled with real images. Images a second are of the undisturbed run, start to finish,
loading included.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import common

CIFAKE = str(Path(sys.executable).with_name("cifake"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train-rows", type=int, default=8000)
    parser.add_argument("--test-rows", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--home", type=Path, help="keep the undisturbed run here; drawn before, it is not timed")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        undisturbed, disturbed = options.home or Path(folder) / "undisturbed", Path(folder) / "disturbed"
        order = ["--train-rows", options.train_rows, "--test-rows", options.test_rows, "--seed", options.seed]
        paper = _cifake(undisturbed, "generate", "plan", "--count", 60_000, "--seed", options.seed)
        one = _cifake(undisturbed, "generate", *order)
        done_when_killed = _kill_half_way(disturbed, order, len(one["shards"]))
        four = _cifake(disturbed, "generate", *order, "--workers", 4)
        plan = one["rows_url"].rpartition("/")[2]
        trees = [_contents(home / "store/generation" / plan) for home in (undisturbed, disturbed)]
        real = [*order[:5], 0]  # the same real images whatever seed draws the others
        built = [
            _cifake(home, "data", "build", "--fake", drawn["rows_url"], "--real", _real(home, real))
            for home, drawn in ((undisturbed, one), (disturbed, four))
        ]
        common.write_result(
            "generate_dataset",
            {
                "what": "one plan drawn by one process, and by four after kill -9",
                "planned as in the paper": {"rows": paper["rows"], "shards": paper["shards"]},
                "rows": one["rows"],
                "weights": one["model_revision"],
                "one process": _speed(one),
                "four processes": {**_speed(four), "shards finished when killed": done_when_killed},
                "found again, images": sum(shard["resumed"] for shard in four["shards"]),
                "files byte-identical": trees[0] == trees[1] and len(trees[0]),
                "dataset versions": [each["dataset_version"] for each in built],
                "dataset rows": built[0]["rows"],
                "machine": common.machine("onnxruntime", "numpy"),
            },
        )
    if trees[0] != trees[1] or built[0]["dataset_version"] != built[1]["dataset_version"]:
        sys.exit("the two runs differ")


def _environment(home: Path) -> dict[str, str]:
    return {**os.environ, "CIFAKE_HOME": str(home)}


def _cifake(home: Path, *arguments: Any) -> dict[str, Any]:
    command = [CIFAKE, *map(str, arguments), "--json"]
    done = subprocess.run(command, env=_environment(home), stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _real(home: Path, rows: list[Any]) -> str:
    return _cifake(home, "data", "collect", "--label", "REAL", *rows)["rows_url"]


def _kill_half_way(home: Path, order: list[Any], shards: int) -> int:
    """Start, kill -9 when half of the shards are there and another is half-done; returns the finished ones."""
    command = [CIFAKE, "generate", *map(str, order), "--workers", "4"]
    with (home.parent / "killed.log").open("wb") as log:
        process = subprocess.Popen(command, env=_environment(home), stdout=log, stderr=log)
        while process.poll() is None:
            finished = list(home.glob("store/generation/*/*.parquet"))
            if len(finished) >= shards / 2 and list(home.glob("store/generation/*/parts/*/*.parquet")):
                process.send_signal(signal.SIGKILL)
                process.wait()
                return len(finished)
            time.sleep(0.05)
    sys.exit(f"it ended before it was killed:\n{(home.parent / 'killed.log').read_text()[-2000:]}")


def _speed(result: dict[str, Any]) -> dict[str, float]:
    return {name: result[name] for name in ("seconds", "images_per_second")}


def _contents(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


if __name__ == "__main__":
    main()
