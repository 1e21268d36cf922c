"""Do an image's low-level statistics tell it from a photograph, whichever generator made it?

python -m benchmarks.low_level --dataset VERSION

Of each of Y, Cb and Cr: mean size and share of zeros of every 8×8 DCT coefficient, the spectrum, and how often
neighbouring residuals go together (Fridrich & Kodovský 2012, https://doi.org/10.1109/TIFS.2012.2190402). Judges: the
Mahalanobis distance from REAL; logistic regressions, each taught one generator of the dataset version; and one that is
taught the unseen tiles themselves, in five folds, as far as so few can teach it. AUROC against the test split's REAL.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks import common
from benchmarks.generalise import by_generator

Judge = Callable[[np.ndarray], np.ndarray]
ROWS = 4000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", required=True, help="a version in CIFAKE_HOME, with images of several generators")
    parser.add_argument("--unseen", default=os.environ.get("CIFAKE_UNSEEN"), help="Parquet of tiles; CIFAKE_UNSEEN")
    options = parser.parse_args()
    from cifake_core.evaluation import testset
    from cifake_core.images import dataset
    from cifake_core.storage import Store

    store = Store()
    manifest = dataset.load(store, options.dataset)
    train, test = (
        {name: statistics(images[:ROWS]) for name, images in by_generator(store, manifest, split).items()}
        for split in ("train", "test")
    )
    real, real_test = train.pop("REAL"), test.pop("REAL")
    tiles = testset.load_tiles(options.unseen) if options.unseen else None
    unseen = (
        {str(f): statistics(tiles.images[tiles.families == f]) for f in sorted(set(tiles.families))} if tiles else {}
    )
    judges = {"distance from REAL": _distance(real)}
    judges |= {f"taught {name}": taught(real, fake).decision_function for name, fake in train.items()}
    fakes = test | {f"unseen {name}": each for name, each in unseen.items()}
    common.write_result(
        "low_level",
        {
            "what": "AUROC of judges of low-level statistics, by generator of the images judged",
            "dataset version": options.dataset,
            "statistics": real.shape[1],
            "rows of a kind, at most": ROWS,
            "judges": {
                name: {fake: _auroc(judge(real_test), judge(each)) for fake, each in fakes.items()}
                for name, judge in judges.items()
            },
            "taught the unseen tiles themselves": {name: folds(real_test, each) for name, each in unseen.items()},
            "machine": common.machine("scikit-learn"),
        },
    )


def statistics(images: np.ndarray) -> np.ndarray:
    """Low-level statistics (N, 927) of images (N, 32, 32, 3) uint8."""
    return np.concatenate([np.concatenate([*_of(images[i : i + 1000])], axis=1) for i in range(0, len(images), 1000)])


def _of(images: np.ndarray) -> Iterator[np.ndarray]:
    from scipy.fft import dctn

    count, pixels = len(images), images.astype(np.float32)
    luma = pixels @ np.array([0.299, 0.587, 0.114], np.float32)
    for plane in (luma, (pixels[..., 2] - luma) * 0.564, (pixels[..., 0] - luma) * 0.713):
        squares = plane.reshape(count, 4, 8, 4, 8).transpose(0, 1, 3, 2, 4)
        sizes = np.abs(dctn(squares, axes=(3, 4), norm="ortho")).reshape(count, 16, 64)
        yield np.log(sizes.mean(1) + 0.1)
        yield (sizes < 1.5).mean(1)
        yield np.log(np.abs(np.fft.fft2(plane))[:, :17:2, :17:2].reshape(count, -1) + 1)
        for order, axis in ((1, 1), (1, 2), (2, 1), (2, 2)):
            levels = np.clip(np.round(np.diff(plane, n=order, axis=axis) / 4), -2, 2).astype(int) + 2
            pairs = (levels[:, :, :-1] * 5 + levels[:, :, 1:]).reshape(count, -1)
            yield np.stack([(pairs == pair).mean(1) for pair in range(25)], axis=1) ** 0.5


def _distance(real: np.ndarray) -> Judge:
    mean, scale = real.mean(0), real.std(0) + 1e-6
    inverse = np.linalg.inv(np.cov(((real - mean) / scale).T) + 0.05 * np.eye(real.shape[1]))

    def judge(rows: np.ndarray) -> np.ndarray:
        off = (rows - mean) / scale
        return np.asarray(((off @ inverse) * off).sum(1))

    return judge


def taught(real: np.ndarray, fake: np.ndarray) -> Any:
    """A logistic regression that tells FAKE rows (M, D) from REAL ones (N, D); FAKE is 1."""
    return _regression().fit(np.concatenate([real, fake]), np.repeat([0, 1], [len(real), len(fake)]))


def _regression() -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(C=0.003, max_iter=500, class_weight="balanced"))


def folds(real: np.ndarray, fake: np.ndarray) -> float:
    """AUROC of `taught` on rows that it was not taught, in five folds."""
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    rows, labels = np.concatenate([real, fake]), np.repeat([0, 1], [len(real), len(fake)])
    splits = StratifiedKFold(5, shuffle=True, random_state=0)
    scores = cross_val_predict(_regression(), rows, labels, cv=splits, method="decision_function")
    return _auroc(scores[labels == 0], scores[labels == 1])


def _auroc(real: np.ndarray, fake: np.ndarray) -> float:
    from cifake_core.evaluation import metrics

    return round(float(metrics.auroc(np.repeat([0, 1], [len(real), len(fake)]), np.concatenate([real, fake])) or 0), 4)


if __name__ == "__main__":
    main()
