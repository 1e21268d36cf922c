"""How often drift alarms on ordinary traffic, and how far other traffic moves: `python -m benchmarks.drift [BUNDLE]`.

The champion's bundle, or a bundle's folder. A reference of 4,000 real test images; 200 windows bootstrapped from 6,000
others; then windows of these blurred, recompressed, and of the generators in CIFAKE_UNSEEN. Needs CIFAKE_DATA. Writes
benchmarks/results/drift.json.
"""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image, ImageFilter

from cifake_core.bundle import Detector
from cifake_core.images import codec
from cifake_core.monitoring import drift, features

IMAGES = 300  # of a window
THRESHOLD = 0.25  # the alerts', deploy/prometheus/alerts.yml
WINDOWS = 200
RESULT = Path(__file__).parent / "results/drift.json"


def seen(file: Path, rows: int, seed: int = 0) -> np.ndarray:
    """Decoded images (N, 32, 32, 3) of a CIFAKE Parquet file, in random order."""
    table = pq.read_table(file, columns=["image"])
    chosen = np.random.default_rng(seed).permutation(table.num_rows)[:rows]
    column = table["image"].combine_chunks().field("bytes")
    return np.stack([codec.decode(column[int(index)].as_py()).pixels for index in chosen])


def values(detector: Detector, images: np.ndarray) -> dict[str, np.ndarray]:
    """What the service measures of images: the features, and the score."""
    return {**features.measure(images), features.SCORE: detector.probability_real(images)}


def damaged(images: np.ndarray, kind: str) -> np.ndarray:
    """Images blurred (Gaussian, one pixel) or recompressed (JPEG, quality 50) on their way, then normalised."""
    made = []
    for pixels in images:
        image, buffer = Image.fromarray(pixels), io.BytesIO()
        if kind == "blurred":
            image.filter(ImageFilter.GaussianBlur(1)).save(buffer, "PNG")
        else:
            image.save(buffer, "JPEG", quality=50)
        made.append(codec.normalise(buffer.getvalue()).pixels)
    return np.stack(made)


def main() -> None:
    from cifake_core.registry.artifacts import fetch, resolve

    detector = Detector(Path(sys.argv[1]) if sys.argv[1:] else fetch(resolve("champion")))
    images = seen(Path(os.environ["CIFAKE_DATA"]) / "test.parquet", 10_000)
    profile, pool = drift.reference_profile(values(detector, images[:4000]), 10), images[4000:]
    scored = values(detector, pool)

    def psi(found: dict[str, np.ndarray]) -> dict[str, float]:
        return {
            name: drift.psi(histogram.counts, drift.count(found[name], histogram.edges))
            for name, histogram in profile.features.items()
        }

    rng = np.random.default_rng(1)
    windows = []
    for _ in range(WINDOWS):
        chosen = rng.integers(0, len(pool), IMAGES)
        windows.append(psi({name: each[chosen] for name, each in scored.items()}))
    others = {kind: damaged(pool[:IMAGES], kind) for kind in ("blurred", "recompressed")}
    unseen = os.environ.get("CIFAKE_UNSEEN")
    if unseen:
        rows = pq.read_table(unseen)["image"].to_pylist()
        tiles = np.stack([codec.normalise(row["bytes"]).pixels for row in rows])
        others["unseen generators"] = tiles[rng.permutation(len(tiles))[:IMAGES]]
    result = {
        "topology": detector.info.topology,
        "images": IMAGES,
        "threshold": THRESHOLD,
        "windows": WINDOWS,
        "false_alarms": sum(max(each.values()) > THRESHOLD for each in windows),
        "psi_99": {name: round(float(np.quantile([w[name] for w in windows], 0.99)), 4) for name in windows[0]},
        "psi_max": {name: round(max(w[name] for w in windows), 4) for name in windows[0]},
        "moved": {kind: {n: round(v, 3) for n, v in psi(values(detector, x)).items()} for kind, x in others.items()},
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
