"""`cifake validate` on all the images there are, beside the same checks in the style of the libraries' tutorials.

python -m benchmarks.validate

Builds the dataset version (not timed), then each way as a process of its own, in turns: wall-clock seconds, seconds of
processor time of all its processes, and the most memory that one of them took. Ours starts with an empty feature cache
each time but the last.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import common

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--home", type=Path, help="a CIFAKE_HOME to build the version in; default a temporary one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        home = (options.home or Path(scratch)).absolute()
        os.environ["CIFAKE_HOME"] = str(home)
        cifake = str(Path(sys.executable).with_name("cifake"))
        built, _ = _run([cifake, "data", "build", "--json"])
        version = built["dataset_version"]
        ours, theirs = [cifake, "validate", "--dataset", version, "--json"], [sys.executable, "-m"]
        theirs += ["benchmarks.validate_tutorial", str(home / "store/datasets" / version)]
        seconds: dict[str, list[dict[str, float]]] = {"cifake validate": [], "tutorial": []}
        for _ in range(options.rounds):
            shutil.rmtree(home / "cache/features", ignore_errors=True)
            shown, used = _run(ours)
            seconds["cifake validate"].append(used)
            tutorial, used = _run(theirs)
            seconds["tutorial"].append(used)
        _, again = _run(ours)
        features = _features(version)
        found = _found(version, shown)
    middle = {w: {k: round(statistics.median(r[k] for r in each), 1) for k in each[0]} for w, each in seconds.items()}
    common.write_result(
        "validate",
        {
            "what": "a dataset version checked from nothing: features, suites, shortcut audit, report, Data Docs",
            "dataset_version": version,
            "rows": built["rows"],
            "rounds": options.rounds,
            "ways": middle,
            "tutorial takes times as long": round(
                statistics.median(
                    t["seconds"] / o["seconds"]
                    for o, t in zip(seconds["cifake validate"], seconds["tutorial"], strict=True)
                ),
                2,
            ),
            "cifake validate, features cached": again,
            "features": features,
            "lines": {
                "tutorial": _code_lines(HERE / "validate_tutorial.py"),
                "ours, to run it": 1,
                "ours, suites in JSON": sum(
                    len(f.read_text().splitlines()) for f in (common.CHECKOUT / "expectations").glob("*.json")
                ),
                "ours, the room's code": sum(
                    map(_code_lines, (common.CHECKOUT / "cifake_core/validation").glob("*.py"))
                ),
            },
            "expectations": {
                "cifake validate": sum(s["expectations"] for s in shown["suites"].values()),
                "failed": {f["expectation"]: f["severity"] for f in [*shown["failed"], *shown["warnings"]]},
                "tutorial failed": tutorial["failed"],
            },
            "found": found,
            "tutorial auc": tutorial["auc"],
            "machine": common.machine("great-expectations", "pandas", "scikit-learn", "pillow"),
        },
    )


def _run(command: list[str]) -> tuple[dict[str, Any], dict[str, float]]:
    """A command's last line as JSON, and what it took; `peak_mb` is of the largest of its processes."""
    start = time.perf_counter()
    # On a busy machine OpenMP's workers spin: the tutorial's trees took ten times as long with two threads as with one.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=common.CHECKOUT, env=environment) as process:
        assert process.stdout
        lines = process.stdout.read().splitlines()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - start
    if process.returncode not in (0, 1) or not lines:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return json.loads(lines[-1]), {
        "seconds": round(seconds, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_mb": round(usage.ru_maxrss / 1024),
    }


def _features(version: str) -> dict[str, float]:
    """Images a second of one process: facts of the file, decoding, statistics of the pixels; and of two, all of it."""
    import hashlib

    import numpy as np

    from cifake_core.images import dataset
    from cifake_core.settings import settings
    from cifake_core.storage import Store
    from cifake_core.validation import container, features, statistics

    store = Store()
    manifest = dataset.load(store, version)
    table, _ = features.read_shard(store, f"datasets/{version}/{manifest.shards[0].name}")
    files = features.encoded(table)

    def speed(action: Any) -> float:
        start = time.perf_counter()
        action()
        return round(len(files) / (time.perf_counter() - start))

    def hashed() -> None:
        container.describe(files)
        for data in files:
            hashlib.sha256(data).hexdigest()

    found = {"file facts and hash, one process": speed(hashed)}
    pixels = np.empty((len(files), 32, 32, 3), np.uint8)

    def decode() -> None:
        for index, data in enumerate(files):
            pixels[index] = features.decode(data)

    found["decoding, one process"] = speed(decode)
    found["statistics of pixels, one process"] = speed(
        lambda: [statistics.measure(pixels[k : k + features.BATCH]) for k in range(0, len(files), features.BATCH)]
    )
    shutil.rmtree(settings().cache / "features")
    start = time.perf_counter()
    features.of_version(store, manifest)
    found["all of it, two processes"] = round(manifest.rows / (time.perf_counter() - start))
    return found


def _found(version: str, shown: dict[str, Any]) -> dict[str, Any]:
    """What is true of the images: repeats, greyscale, how well the label is told from anything but the picture."""
    from cifake_core.images import dataset
    from cifake_core.storage import Store
    from cifake_core.validation import features, tables

    store = Store()
    manifest = dataset.load(store, version)
    images = features.of_version(store, manifest)
    encoded = tables.read_shards(store, manifest).images()
    repeats = images[images.duplicated(["split", "content_hash"])]
    return {
        "splits": {
            row["split"]: {
                **{k: row[k] for k in ("rows", "exact_duplicates", "in_another_split", "near_duplicates")},
                **{k: round(row[k], 4) for k in ("greyscale_fake", "greyscale_real")},
            }
            for row in tables.splits(images, encoded.__getitem__).to_dict("records")
        },
        "labels of rows that repeat an earlier one": repeats["label"].value_counts().to_dict(),
        "auc, with its 95 % interval": {
            f"{a['audit']}/{a['part']}": [round(a[k], 4) for k in ("auc", "auc_low", "auc_high")]
            for a in shown["shortcuts"]
        },
    }


def _code_lines(file: Path) -> int:
    """Lines that hold code: no blank lines, comments or docstrings."""
    text = file.read_text()
    docs: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            docs |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines = enumerate(text.splitlines(), 1)
    return sum(1 for number, line in lines if line.strip() and not line.lstrip().startswith("#") and number not in docs)


if __name__ == "__main__":
    main()
