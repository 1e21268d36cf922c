"""What each generator's images teach a detector about generators it never saw.

python -m benchmarks.generalise --dataset VERSION

Small networks, trained alike on equally many REAL and FAKE of a dataset version with several generators: FAKE of one
alone, of all, and of all but one (leave one generator out). Each is scored on the test split's images of every
generator, and on the tiles of CIFAKE_UNSEEN, which no training touches. AUROC is against the test split's REAL.
Registered versions (`--version 6 --version 10`) are judged beside them, by the same images.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from benchmarks import common


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", required=True, help="a version in CIFAKE_HOME, with images of several generators")
    parser.add_argument("--unseen", default=os.environ.get("CIFAKE_UNSEEN"), help="Parquet of tiles; CIFAKE_UNSEEN")
    parser.add_argument("--rows", type=int, default=8000, help="of each label")
    parser.add_argument("--topology", default="seed")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--version", action="append", default=[], help="of the registered model: judged, too")
    options = parser.parse_args()
    from cifake_core.bundle import Detector
    from cifake_core.evaluation import testset
    from cifake_core.images import dataset
    from cifake_core.registry.artifacts import fetched
    from cifake_core.storage import Store

    store = Store()
    manifest = dataset.load(store, options.dataset)
    train, test = (by_generator(store, manifest, split) for split in ("train", "test"))
    tiles = testset.load_tiles(options.unseen) if options.unseen else None
    names = sorted(set(train) - {"REAL"})
    found: dict[str, Any] = {}
    for ref in options.version:
        version, folder = fetched(ref)
        found[f"version {ref}"] = _judge(Detector(folder).probability_real, test, tiles) | {"of": dict(version.tags)}
        print(ref, found[f"version {ref}"], flush=True)
    for choice, of in choices(names).items():
        started = time.process_time()
        model = _train(options, train, of)
        found[choice] = _judge(partial(_probability_real, model), test, tiles)
        found[choice]["cpu_seconds"] = round(time.process_time() - started)
        print(choice, found[choice], flush=True)
    common.write_result(
        "generalise",
        {
            "what": "AUROC, and recall at 5 % false alarms, of small detectors by what they were trained on",
            "dataset version": options.dataset,
            "rows of each label": options.rows,
            "network": {"topology": options.topology, "epochs": options.epochs, "seed": options.seed},
            "trained on": found,
            "machine": common.machine("tensorflow-cpu"),
        },
    )


def choices(names: list[str]) -> dict[str, list[str]]:
    """Whose images to teach, by what to call it: each generator alone, all, and all but one."""
    found = {f"{name} alone": [name] for name in names}
    if len(names) > 1:
        found |= {"all": names} | {f"all but {name}": [n for n in names if n != name] for name in names}
    return found


def by_generator(store: Any, manifest: Any, split: str) -> dict[str, np.ndarray]:
    """A split's images by generator, the real ones as `REAL`."""
    from cifake_core.images import dataset

    images, _ = dataset.arrays(store, manifest, split)
    names = np.array([name or "REAL" for name in dataset.read(store, manifest, split)["generator"].to_pylist()])
    return {str(name): images[names == name] for name in np.unique(names)}


def _train(options: argparse.Namespace, rows: dict[str, np.ndarray], generators: list[str]) -> Any:
    from cifake_core.training.augmentation import Augmentation
    from cifake_core.training.epochs import Arrays
    from cifake_core.training.fit import fit
    from cifake_core.training.options import Options

    share = options.rows // len(generators)
    fake = np.concatenate([rows[name][np.arange(share) % len(rows[name])] for name in generators])
    real = rows["REAL"][: len(fake)]
    asked = Options(
        topology=options.topology,
        epochs=options.epochs,
        seed=options.seed,
        batch_size=64,
        learning_rate=0.002,
        schedule="one-cycle",
        augmentation=Augmentation(flip=0.5, shift=2),
    )
    return fit(asked, Arrays(np.concatenate([real, fake]), np.repeat([1, 0], [len(real), len(fake)]))).model


def _probability_real(model: Any, images: np.ndarray) -> np.ndarray:
    return np.asarray(model.predict(images, batch_size=512, verbose=0)).ravel()


def _judge(scores: Callable[[np.ndarray], np.ndarray], test: dict[str, np.ndarray], tiles: Any) -> dict[str, Any]:
    from cifake_core.evaluation import metrics

    real = scores(test["REAL"])
    limit = np.quantile(real, 0.05)

    def measured(images: np.ndarray) -> dict[str, float]:
        fake = scores(images)
        labels = np.repeat([1, 0], [len(real), len(fake)])
        auroc = metrics.auroc(labels, np.concatenate([real, fake]))
        return {"auroc": round(float(auroc or 0), 4), "recall_at_5": round(float((fake < limit).mean()), 4)}

    seen = {name: measured(images) for name, images in test.items() if name != "REAL"}
    if tiles is None:
        return {"test": seen}
    unseen = {str(f): measured(tiles.images[tiles.families == f]) for f in sorted(set(tiles.families))}
    return {"test": seen, "unseen": unseen}


if __name__ == "__main__":
    main()
