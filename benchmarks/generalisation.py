"""Does a detector of one generator's images know another's? Two trainings, each scored on both.

python -m benchmarks.generalisation

The same real images beside FAKE of the embedded generator, and beside published CIFAKE (Stable Diffusion v1.4); the
same network, trained the same way. Test images of every kind were in neither training.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import common

KINDS = ("embedded", "cifake")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train-rows", type=int, default=8000, help="of each label")
    parser.add_argument("--test-rows", type=int, default=2000, help="of each label")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--topology", default="seed")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--home", type=Path, help="CIFAKE_HOME in which embedded images are drawn, or were before")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        real, fake, versions = _images(options, options.home or Path(folder))
    scores = {kind: _train(options, real["train"], fake[kind]["train"], real["test"], fake) for kind in KINDS}
    common.write_result(
        "generalisation",
        {
            "what": "detectors trained on one generator's FAKE, scored on both; real images are the same throughout",
            "rows of each label": {"train": options.train_rows, "test": options.test_rows},
            "network": {"topology": options.topology, "epochs": options.epochs, "batch_size": 32, "seed": options.seed},
            "embedded weights": versions,
            "trained on": {kind: _report(scores[kind]) for kind in KINDS},
            "machine": common.machine("tensorflow-cpu", "onnxruntime"),
        },
    )


def _images(options: argparse.Namespace, home: Path) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Pixels by side, of real images and of each kind of FAKE, all through the codec."""
    from cifake_core.generation import plan, published
    from cifake_core.generation.workers import run_plan
    from cifake_core.images import assemble
    from cifake_core.settings import REAL
    from cifake_core.storage import Store

    store = Store((home / "store").as_uri())
    rows = (options.train_rows, options.test_rows, options.seed)
    drawn = run_plan(store, plan.make("embedded", *rows))
    urls = {"embedded": drawn.rows_url, "cifake": published.collect(store, "cifake", *rows).rows_url}
    real = _pixels(assemble.collect(store, REAL, *rows).rows_url)
    return real, {kind: _pixels(url) for kind, url in urls.items()}, drawn.model_revision


def _pixels(url: str) -> dict[str, np.ndarray]:
    from cifake_core.images import codec, collection, records

    sides, _ = collection.read(url)
    return {
        str(side): np.stack([codec.decode(data).pixels for data in records.image_bytes(table)])
        for side, table in sides.items()
    }


def _train(
    options: argparse.Namespace, real: np.ndarray, fake: np.ndarray, real_test: np.ndarray, fakes: dict[str, Any]
) -> dict[str, np.ndarray]:
    """P(REAL) of real test images and of each kind's FAKE test images."""
    from cifake_core.training.epochs import Arrays
    from cifake_core.training.fit import fit
    from cifake_core.training.options import Options

    asked = Options(topology=options.topology, epochs=options.epochs, seed=options.seed)
    labels = np.repeat([1, 0], [len(real), len(fake)])
    model = fit(asked, Arrays(np.concatenate([real, fake]), labels)).model
    tests = {"real": real_test, **{kind: fakes[kind]["test"] for kind in KINDS}}
    return {name: np.asarray(model.predict(images, verbose=0)).ravel() for name, images in tests.items()}


def _report(scores: dict[str, np.ndarray]) -> dict[str, Any]:
    from cifake_core.evaluation import metrics

    real = scores["real"]
    found: dict[str, Any] = {"real images called REAL": round(float((real >= 0.5).mean()), 4)}
    for kind in KINDS:
        labels = np.repeat([1, 0], [len(real), len(scores[kind])])
        report = metrics.binary_report(labels, np.concatenate([real, scores[kind]]))
        found[f"{kind} FAKE"] = {
            "called FAKE": round(report.labels["FAKE"].recall, 4),
            "AUROC": round(report.auroc or 0, 4),
            "accuracy": round(report.accuracy, 4),
        }
    return found


if __name__ == "__main__":
    main()
