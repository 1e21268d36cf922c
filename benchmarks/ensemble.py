"""What several detectors know together: how far their mean answer is above each of them, on images none has seen.

python -m benchmarks.ensemble --dataset VERSION --versions 6 8 11

Means are of logits; `mirrored` averages over an image and its mirror image, too. Accuracy at 0.5 and mean log loss, on
the validation and test splits, undamaged and after JPEG at quality 50.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from benchmarks import common


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", required=True, help="a version in CIFAKE_HOME")
    parser.add_argument("--versions", required=True, nargs="+", help="of the registered model")
    parser.add_argument("--name", default="ensemble", help="of the result")
    options = parser.parse_args()
    from cifake_core.bundle import Detector
    from cifake_core.evaluation import slices
    from cifake_core.images import dataset
    from cifake_core.registry.artifacts import fetched
    from cifake_core.storage import Store

    store = Store()
    manifest = dataset.load(store, options.dataset)
    registered = [fetched(each) for each in options.versions]
    detectors = {each: Detector(folder) for each, (_, folder) in zip(options.versions, registered, strict=True)}
    found: dict[str, Any] = {}
    for split in ("validation", "test"):
        images, labels = dataset.arrays(store, manifest, split)
        for damage, shown in ("", images), (", JPEG 50", slices.apply(images, (("jpeg", 50),), 0)):
            by_version = {name: _answers(detector, shown) for name, detector in detectors.items()}
            by_version["all"] = np.mean(list(by_version.values()), 0)
            found[split + damage] = {name: _judge(*answers, labels) for name, answers in by_version.items()}
            print(split + damage, found[split + damage], flush=True)
    common.write_result(
        options.name,
        {
            "what": "accuracy and log loss of detectors, and of their mean answer",
            "dataset version": options.dataset,
            "versions": {n: dict(v.tags) | {"run": v.run_id} for n, (v, _) in zip(detectors, registered, strict=True)},
            "found": found,
            "machine": common.machine("onnxruntime"),
        },
    )


def _answers(detector: Any, images: np.ndarray) -> np.ndarray:
    """Logits of REAL: of the images, and averaged with their mirror images, (2, N)."""
    views = (images, np.ascontiguousarray(images[:, :, ::-1]))
    plain, mirrored = (
        np.concatenate([detector.score(view[i : i + 500])[0] for i in range(0, len(view), 500)]).astype(float)
        for view in views
    )
    return np.stack([plain, (plain + mirrored) / 2])


def _judge(plain: np.ndarray, mirrored: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    figures = {}
    for name, logits in ("", plain), ("mirrored ", mirrored):
        figures[f"{name}accuracy"] = round(float(np.mean((logits > 0) == labels)), 4)
        figures[f"{name}log loss"] = round(float(np.mean(np.logaddexp(0, np.where(labels, -logits, logits)))), 4)
    return figures


if __name__ == "__main__":
    main()
