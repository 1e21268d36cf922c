"""Hardening against two new generators, one after the other: how many of their images pass before and after.

python -m benchmarks.harden

A detector is trained on CIFAKE and promoted. Then 128 images of the embedded generator are added by the verbs that
the DAG `cifake_harden` runs, and after those 128 of a DDPM. All figures are on images held apart.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks import common

UNSEEN = common.CHECKOUT.parent / "shared/data/cross_generator/dev.parquet"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train-rows", type=int, help="of CIFAKE, both labels; all by default")
    parser.add_argument("--topology", default="seed")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--examples", type=int, default=128, help="of each generator to train on")
    parser.add_argument("--held", type=int, default=1000, help="embedded images held apart")
    parser.add_argument("--home", type=Path, help="CIFAKE_HOME to work in; what is done there is not done again")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        home = options.home or Path(scratch)
        os.environ["CIFAKE_HOME"] = str(home)
        rows = ["--train-rows", str(options.train_rows)] if options.train_rows else []
        first = _trained(
            *("--dataset", _cifake("data", "build", *rows)["dataset_version"], "--topology", options.topology),
            *("--epochs", str(options.epochs)),
        )
        sources = {"embedded": _embedded(home, options.examples + options.held), "ddpm": _ddpm(home)}
        champion, reports = first["champion"], []
        for generator, images in sources.items():
            prepared = _cifake(
                *("harden", "prepare", "--images", str(images), "--generator", generator),
                *("--train-rows", str(options.examples)),
            )
            made = _trained("--dataset", prepared["dataset_version"], "--recipe", "harden", "--start", str(champion))
            seen = [*(report["generator"] for report in reports), generator]
            compare = ["--dataset", made["dataset_version"], "--before", str(champion), "--after", made["version"]]
            found = [_cifake("harden", "report", *compare, "--generator", each) for each in seen]
            reports.append({**found[-1], "promoted": made["promoted"], "reasons": made["reasons"], "known": found[:-1]})
            champion = made["champion"]
    common.write_result(
        "harden",
        {
            "what": f"{options.examples} images of a new generator added; shares taken for REAL on images held apart",
            "trained first": {"topology": options.topology, "epochs": options.epochs, "accuracy": first["accuracy"]},
            "generators": reports,
            "machine": common.machine("tensorflow-cpu", "onnxruntime"),
        },
    )


def _cifake(*arguments: str) -> dict[str, Any]:
    command = [str(Path(sys.executable).with_name("cifake")), *arguments, "--json"]
    print("$", "cifake", *arguments, flush=True, file=sys.stderr)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"exit code {done.returncode}: {done.stdout}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _trained(*arguments: str) -> dict[str, Any]:
    """Validate, train, and promote if the gate allows; `arguments` are `cifake train`'s, the dataset's first."""
    accepted = _cifake("validate", *arguments[:2])["dataset_version"]
    trained = _cifake("train", "--dataset", accepted, *arguments[2:])
    number = str(trained["model_version"])
    promoted = _cifake("promote", "--version", number, "--reason", "benchmark")
    return {
        "dataset_version": accepted,
        "version": number,
        "accuracy": trained["metrics"]["accuracy"],
        **{name: promoted[name] for name in ("promoted", "champion", "reasons")},
    }


def _embedded(home: Path, count: int) -> Path:
    """Images of the embedded generator, which CIFAKE knows nothing of."""
    from cifake_core.images import collection

    url = _cifake("generate", "--generator", "embedded", "--train-rows", "0", "--test-rows", str(count))["rows_url"]
    sides, _ = collection.read(url)
    return _write(home / "embedded.parquet", pa.concat_tables(sides.values()))


def _ddpm(home: Path) -> Path:
    """Images of a diffusion model in pixel space, trained on CIFAR-10 by others."""
    table = pq.read_table(UNSEEN)
    return _write(home / "ddpm.parquet", table.filter(pc.equal(table["generator"], "ddpm")))


def _write(file: Path, table: pa.Table) -> Path:
    pq.write_table(table.select(["image"]), file)
    return file


if __name__ == "__main__":
    main()
