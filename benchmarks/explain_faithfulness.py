"""How true each method's maps are on test images, and where the evidence lies: on the object or around it.

python -m benchmarks.explain_faithfulness BUNDLE

Faithfulness: insertion, deletion (RISE) and ROAD areas of the predicted label's probability; a random map is the
floor. Where: the share of evidence outside the middle half of the picture's area, and outside a foreground cut out
by colour (see `objects`); evidence spread evenly would have the area's own share outside. Then pixels are
judged by what hiding them does: the same number of pixels is imputed inside and outside the foreground.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import common
from cifake_core.bundle import Detector
from cifake_core.explain import explainer, faithfulness

RANDOM = "random"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--road-images", type=int, default=100, help="ROAD solves ten linear systems an image")
    options = parser.parse_args()
    _, pixels = common.images(options.images)
    detector = Detector(options.bundle, threads=1)
    probability = detector.probability_real(pixels)
    target = (probability >= detector.info.threshold).astype(int)
    blocks = [block.name for block in detector.info.blocks]
    middle = np.zeros(pixels.shape[:3], bool)
    edge = round(pixels.shape[1] * (1 - 0.5**0.5) / 2)
    middle[:, edge:-edge, edge:-edge] = True
    foreground = objects(pixels)
    rng = np.random.default_rng(0)
    maps = {RANDOM: rng.random(pixels.shape[:3]).astype(np.float32)}
    table: dict[str, Any] = {}
    for method in (RANDOM, *explainer.methods(detector)):
        start = time.perf_counter()
        if method != RANDOM:
            maps[method] = explainer.heatmaps(detector, pixels, method=method, blocks=blocks[-1:], target=target)
        seconds = time.perf_counter() - start
        areas = faithfulness.insertion_deletion(detector.score, pixels, maps[method], target)
        few = slice(options.road_images)
        road = faithfulness.road(detector.score, pixels[few], maps[method][few], target[few])
        table[method] = {
            "insertion": _mean(areas.insertion),
            "deletion": _mean(areas.deletion),
            "insertion_minus_deletion": _mean(areas.insertion - areas.deletion),
            "road": _mean(road),
            "outside_middle": _mean(faithfulness.evidence_outside(maps[method], middle)),
            "outside_foreground": _mean(faithfulness.evidence_outside(maps[method], foreground)),
            "ms_per_image": round(seconds / len(pixels) * 1000, 2),
        }
        print(method, table[method], flush=True)
    agreement = faithfulness.agreement({name: each for name, each in maps.items() if not name.startswith("smooth-")})
    common.write_result(
        "explain_faithfulness",
        {
            "what": f"maps of the last block, {blocks[-1]}, for the predicted label; means over test images",
            "images": len(pixels),
            "images_of_road": min(options.road_images, len(pixels)),
            "of_them_fake_by_verdict": int((target == 0).sum()),
            "topology": detector.info.topology,
            "dataset_version": detector.info.dataset_version,
            "methods": table,
            "area_outside": {"middle": round(1 - middle.mean(), 3), "foreground": round(1 - foreground.mean(), 3)},
            "hiding": hiding(detector, pixels, foreground, target),
            "agreement": {f"{a} – {b}": round(value, 2) for (a, b), value in agreement.items()},
            "machine": common.machine("onnxruntime", "scipy"),
        },
    )


def objects(pixels: np.ndarray) -> np.ndarray:
    """A foreground (N, S, S) bool of each image: pixels whose colour is rather the middle's than the rim's.

    CIFAR-10 centres its objects and has no masks: one Gaussian of colour a region, a preference for the middle, and
    a median filter.
    """
    from scipy.ndimage import median_filter

    size = pixels.shape[1]
    inside, rim = np.zeros((size, size), bool), np.ones((size, size), bool)
    inside[size // 4 : -size // 4, size // 4 : -size // 4] = True
    rim[3:-3, 3:-3] = False
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    near = (y**2 + x**2) / (size / 3) ** 2
    made = []
    for image in pixels.astype(np.float64) / 255:
        of_object, of_background = (_log_density(image, image[region]) for region in (inside, rim))
        made.append(median_filter(of_object - of_background + 1 - 2 * near > 0, 5))
    return np.array(made)


def _log_density(image: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Of each pixel's colour under the Gaussian fitted to some colours, up to a constant."""
    away = image - colours.mean(0)
    covariance = np.cov(colours.T) + 1e-3 * np.eye(3)
    return -0.5 * np.einsum("yxi,ij,yxj->yx", away, np.linalg.inv(covariance), away) - 0.5 * np.log(
        np.linalg.det(covariance)
    )


def hiding(detector: Detector, pixels: np.ndarray, foreground: np.ndarray, target: np.ndarray) -> dict[str, Any]:
    """How far the verdict's probability falls when equally many pixels inside, or outside, the object are imputed.

    Without any map: this asks the model itself. `changed` is the share of verdicts that turn.
    """
    rng = np.random.default_rng(0)
    shown = {"inside": pixels.copy(), "outside": pixels.copy()}
    for k, mask in enumerate(foreground):
        regions = {"inside": np.flatnonzero(mask), "outside": np.flatnonzero(~mask)}
        count = min(map(len, regions.values())) // 2
        for name, region in regions.items():
            hole = np.zeros(mask.size, bool)
            hole[rng.permutation(region)[:count]] = True
            shown[name][k] = faithfulness.impute(pixels[k], hole.reshape(mask.shape))
    before = _of_target(detector, pixels, target)
    after = {name: _of_target(detector, images, target) for name, images in shown.items()}
    return {
        name: {"probability_falls_by": _mean(before - each), "changed": _mean((each < 0.5) & (before >= 0.5))}
        for name, each in after.items()
    }


def _of_target(detector: Detector, images: np.ndarray, target: np.ndarray) -> np.ndarray:
    probability = detector.probability_real(images)
    return np.where(target == 1, probability, 1 - probability)


def _mean(values: np.ndarray) -> float:
    return round(float(np.nanmean(values)), 3)


if __name__ == "__main__":
    main()
