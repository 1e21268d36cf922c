"""Does what a photograph shows tell generators apart that no detector was trained on?

python -m benchmarks.typicality --dataset VERSION

A network learns the ten object classes from the REAL training images alone; no FAKE is shown to it. Then images are
scored by how sure it is of what they show, and by how far their features lie from those of REAL ones, averaged over an
image and its mirror image. AUROC of FAKE against the test split's REAL, for the dataset's own generators and for the
tiles of CIFAKE_UNSEEN. Killed, the same command goes on after the last whole epoch.

Probes are logistic regressions on the frozen features (Ojha et al. 2023, https://arxiv.org/abs/2302.10174), taught the
training images of one generator of the version, of all, or of all but one. `shipped` is the shipped detector's score,
and `both` what one would serve: where it is sure of REAL its score is capped, so that the largest logit decides the
order there.

Scores: largest softmax probability (Hendrycks & Gimpel 2017, https://arxiv.org/abs/1610.02136), energy (Liu et al.
2020, https://arxiv.org/abs/2010.03759), Mahalanobis distance (Lee et al. 2018, https://arxiv.org/abs/1807.03888) and
relative Mahalanobis distance (Ren et al. 2021, https://arxiv.org/abs/2106.09022).
"""

from __future__ import annotations

import argparse
import hashlib
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import common
from benchmarks.generalise import by_generator, choices
from benchmarks.low_level import folds, taught
from cifake_core.training import fit  # this room before Keras: it turns oneDNN on
from cifake_core.training.augmentation import Augmentation
from cifake_core.training.epochs import Arrays
from cifake_core.training.options import Options, fingerprint

ROWS = 10_000
CAP, WEIGHT = 1.5, 0.5  # chosen with the test images and the unseen tiles in view


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", required=True, help="a version in CIFAKE_HOME")
    parser.add_argument("--unseen", default=os.environ.get("CIFAKE_UNSEEN"), help="Parquet of tiles; CIFAKE_UNSEEN")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=common.CHECKOUT / ".cifake/benchmarks/typicality")
    options = parser.parse_args()
    from cifake_core.evaluation import testset
    from cifake_core.images import dataset
    from cifake_core.storage import Store

    store = Store()
    manifest = dataset.load(store, options.dataset)
    train, classes = by_generator(store, manifest, "train"), _classes(store, manifest, "train")
    real = train.pop("REAL")
    fakes = by_generator(store, manifest, "test")
    real_test = fakes.pop("REAL")
    fitted = Fitted(_train(options, real, classes), real[:ROWS], classes[:ROWS], train)
    of_real = fitted.scores(real_test)
    right = fitted.classify(real_test) == _classes(store, manifest, "test")
    known = {}
    if options.unseen:
        tiles = testset.load_tiles(options.unseen)
        for names in (tiles.families, tiles.generators):
            fakes |= {f"unseen {name}": tiles.images[names == name] for name in sorted(set(names))}
        features = fitted.features(real_test)
        for name in sorted(set(tiles.families)):
            known[name] = folds(features, fitted.features(tiles.images[tiles.families == name]))
    common.write_result(
        "typicality",
        {
            "what": "AUROC, and recall at 5 % false alarms, of scores by a network that learnt object classes of REAL",
            "dataset version": options.dataset,
            "real rows": len(real),
            "epochs": options.epochs,
            "seed": options.seed,
            "accuracy on classes of REAL test images": round(float(np.mean(right)), 4),
            "AUROC of a probe taught the unseen tiles themselves, in five folds": known,
            "scores": {name: _judge(fitted.scores(images), of_real) for name, images in fakes.items()},
            "machine": common.machine("tensorflow-cpu", "keras"),
        },
    )


def _classes(store: Any, manifest: Any, split: str) -> np.ndarray:
    """Class numbers of the split's REAL images, in its order."""
    from cifake_core.images import dataset
    from cifake_core.settings import CLASSES

    table = dataset.read(store, manifest, split)
    rows = zip(table["generator"].to_pylist(), table["class"].to_pylist(), strict=True)
    return np.array([CLASSES.index(name) for generator, name in rows if not generator])


def _network(images: np.ndarray) -> Any:
    """Few, wide convolutions behind one that whitens 2×2 pixels (Jordan 2024, https://arxiv.org/abs/2404.00498)."""
    import keras
    from keras import layers

    def settle(x: Any) -> Any:
        return layers.Activation("silu")(layers.BatchNormalization(momentum=0.9)(x))

    def convolution(x: Any, filters: int) -> Any:
        return layers.Conv2D(filters, 3, padding="same", use_bias=False, kernel_initializer="he_normal")(x)

    x = inputs = keras.Input((32, 32, 3))
    whiten = layers.Conv2D(24, 2, use_bias=False, trainable=False)
    x = settle(whiten(layers.Rescaling(1 / 255)(x)))
    whiten.set_weights([_whitening(images[:ROWS] / 255)])
    for filters in (64, 256, 256):
        x = settle(layers.MaxPooling2D()(convolution(x, filters)))
        x = settle(convolution(x, filters))
    features = layers.GlobalMaxPooling2D(name="features")(x)
    return keras.Model(inputs, layers.Dense(10, name="logit")(features))


def _whitening(images: np.ndarray) -> np.ndarray:
    """A kernel (2, 2, 3, 24) whose outputs over images (N, S, S, 3) are uncorrelated and of one size; and negated."""
    patches = np.lib.stride_tricks.sliding_window_view(images[::10], (2, 2), axis=(1, 2)).transpose(0, 1, 2, 4, 5, 3)
    size, directions = np.linalg.eigh(np.cov(patches.reshape(-1, 12), rowvar=False))
    kernel = directions / np.sqrt(size + 5e-4)
    return np.concatenate([kernel, -kernel], 1).reshape(2, 2, 3, 24)


def _train(asked: argparse.Namespace, images: np.ndarray, classes: np.ndarray) -> Any:
    import keras

    options = Options(
        epochs=asked.epochs,
        batch_size=256,
        seed=asked.seed,
        optimizer="muon",
        learning_rate=0.01,
        weight_decay=0.05,
        schedule="one-cycle",
        augmentation=Augmentation(flip=0.5, shift=2),
    )
    keras.utils.set_random_seed(options.seed)
    model, steps = _network(images), math.ceil(len(images) / options.batch_size)
    model.compile(
        fit.optimizer_of(options, steps),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,
    )
    shown = hashlib.sha256(images.tobytes() + classes.tobytes()).hexdigest()[:16]
    folder = asked.folder / fingerprint(options, shown)
    rows = Arrays(images, classes)
    feed = fit.feed(rows, options.batch_size, options.augmentation)
    data, *later = (feed(rows.order(options.seed, epoch), options.seed, epoch) for epoch in range(options.epochs))
    for epoch in later:
        data = data.concatenate(epoch)
    kept = keras.callbacks.BackupAndRestore(str(folder), delete_checkpoint=False)
    model.fit(data, epochs=options.epochs, steps_per_epoch=steps, verbose=2, callbacks=[kept])
    return model


class Fitted:
    """A trained network, and where REAL images lie among its features: images of `classes`, (N, 32, 32, 3) uint8.

    `fakes` are the images of generators, by name, that probes are taught.
    """

    def __init__(self, model: Any, images: np.ndarray, classes: np.ndarray, fakes: dict[str, np.ndarray]) -> None:
        import keras

        from cifake_core.bundle import ARTIFACT_PATH, Detector
        from cifake_core.registry.artifacts import SHIPPED

        self.both = keras.Model(model.input, [model.get_layer("features").output, model.output])
        self.detector = Detector(SHIPPED / ARTIFACT_PATH)
        features, logits = self._run(images)
        self.largest = logits.max(1).mean(), logits.max(1).std()
        self.means = np.stack([features[classes == each].mean(0) for each in range(10)])
        self.precision = _precision(features - self.means[classes])
        self.mean, self.whole = features.mean(0), _precision(features - features.mean(0))
        of_fakes = {name: self.features(fake[:ROWS]) for name, fake in fakes.items()}
        self.probes = {
            choice: taught(features, np.concatenate([of_fakes[name] for name in names]))
            for choice, names in choices(sorted(fakes)).items()
        }

    def features(self, images: np.ndarray) -> np.ndarray:
        """What the class scores are made of, (N, 256)."""
        return self._run(images)[0]

    def classify(self, images: np.ndarray) -> np.ndarray:
        """Class numbers (N,)."""
        return self._run(images)[1].argmax(1)

    def scores(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Each score (N,): the higher, the less like a REAL image."""
        features, logits = self._run(images)
        shipped = self.shipped(images)
        largest = logits.max(1)
        energy = -(np.log(np.exp(logits - largest[:, None]).sum(1)) + largest)
        near = np.min([_squared(features - mean, self.precision) for mean in self.means], 0)
        return {
            "largest probability": -np.exp(largest + energy),
            "energy": energy,
            "Mahalanobis": near,
            "relative Mahalanobis": near - _squared(features - self.mean, self.whole),
            "shipped": shipped,
            "both": np.logaddexp(0, shipped + CAP) - WEIGHT * (largest - self.largest[0]) / self.largest[1],
            **{f"probe of {choice}": probe.decision_function(features) for choice, probe in self.probes.items()},
        }

    def shipped(self, images: np.ndarray) -> np.ndarray:
        """The shipped detector's logit of FAKE (N,)."""
        parts = [self.detector.score(np.ascontiguousarray(images[i : i + 500]))[0] for i in range(0, len(images), 500)]
        return -np.concatenate(parts).astype(float)

    def _run(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        views = [self.both.predict(view, batch_size=500, verbose=0) for view in (images, images[:, :, ::-1])]
        features, logits = (np.mean(both, 0, dtype=float) for both in zip(*views, strict=True))
        return features, logits


def _precision(centred: np.ndarray) -> np.ndarray:
    return np.linalg.inv(np.cov(centred, rowvar=False) + 1e-3 * np.eye(centred.shape[1]))


def _squared(centred: np.ndarray, precision: np.ndarray) -> np.ndarray:
    return np.einsum("ni,ij,nj->n", centred, precision, centred)


def _judge(fake: dict[str, np.ndarray], real: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    from cifake_core.evaluation.metrics import auroc

    found = {}
    for name, scores in fake.items():
        labels = np.repeat([1, 0], [len(scores), len(real[name])])
        area = auroc(labels, np.concatenate([scores, real[name]])) or 0.0
        recall = float(np.mean(scores > np.quantile(real[name], 0.95)))
        found[name] = {"auroc": round(area, 4), "recall_at_5": round(recall, 4)}
    return found


if __name__ == "__main__":
    main()
