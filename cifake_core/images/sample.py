"""The offline sample: crops of the photographs that scikit-image and scikit-learn ship.

REAL is a crop resized to 32×32; FAKE (generator `resample`) is such a crop, then resized down and up again.
A crop's path names its photograph, so that all crops of one photograph stay on one side and in one split.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from cifake_core.errors import DataNotFoundError
from cifake_core.images import codec, records
from cifake_core.images.sources import Side, Source
from cifake_core.settings import CLASSES, FAKE, LABELS, REAL

NAME = "offline-sample"
GENERATOR = "resample"
DEFAULT_ROWS = {"train": 4000, "test": 1000}
PHOTOGRAPHS: dict[Side, tuple[str, ...]] = {
    "train": (
        "skimage/astronaut.png",
        "skimage/brick.png",
        "skimage/camera.png",
        "skimage/chelsea.png",
        "skimage/coins.png",
        "skimage/grass.png",
        "skimage/hubble_deep_field.jpg",
        "skimage/ihc.png",
        "skimage/motorcycle_left.png",
        "sklearn/china.jpg",
    ),
    "test": ("skimage/coffee.png", "skimage/gravel.png", "skimage/rocket.jpg", "sklearn/flower.jpg"),
}
_FOLDERS = {"skimage": "skimage.data", "sklearn": "sklearn.datasets.images"}
_CROP_SIDES = (48, 160)  # pixels; smallest and largest square cut out


class OfflineSample(Source):
    """Made on the spot, the same on every machine that has the same photographs."""

    name = NAME
    location = "scikit-image and scikit-learn"
    notes = (
        "OFFLINE SAMPLE: crops of about a dozen photographs, FAKE being such crops resampled, object classes "
        "placeholders; scores on it compare with nothing published. Set CIFAKE_DATA for real data.",
    )

    def read(self, side: Side, label: int | None = None, rows: int | None = None) -> pa.Table:  # noqa: D102
        wanted = [FAKE, REAL] if label is None else [label]
        total = rows or DEFAULT_ROWS[side] * len(wanted) // 2
        photographs = [(name, _load(name)) for name in PHOTOGRAPHS[side]]
        per_label = -(-total // (len(wanted) * len(CLASSES))) * len(CLASSES)
        return records.make_table(row for value in wanted for row in _crops(photographs, side, value, per_label))


@cache
def _load(name: str) -> Image.Image:
    package, file = name.split("/")
    try:
        with files(_FOLDERS[package]).joinpath(file).open("rb") as photograph:
            return Image.open(photograph).convert("RGB")
    except (ImportError, OSError) as exc:
        raise DataNotFoundError(
            f"no images: CIFAKE_DATA is not set, the hub is out of reach, and the offline sample needs {name} ({exc}); "
            "set CIFAKE_DATA, or install cifake[train]"
        ) from exc


def _crops(photographs: list[tuple[str, Image.Image]], side: Side, label: int, count: int) -> Iterator[dict[str, Any]]:
    """`count` crops of one label, round robin over photographs; crop number n is the same whatever the count."""
    for number in range(count):
        turn, kind = divmod(number, len(CLASSES))  # photographs shift by one each turn: not tied to the class
        name, photograph = photographs[(turn + kind) % len(photographs)]
        rng = np.random.default_rng([list(PHOTOGRAPHS).index(side), label, number])
        side_length = int(rng.integers(_CROP_SIDES[0], min(_CROP_SIDES[1], *photograph.size) + 1))
        left, top = (int(rng.integers(extent - side_length + 1)) for extent in photograph.size)
        box = (left, top, left + side_length, top + side_length)
        crop = photograph.crop(box).resize((codec.SIZE, codec.SIZE), Image.Resampling.LANCZOS)
        if label == FAKE:
            half = codec.SIZE // 2
            crop = crop.resize((half, half), Image.Resampling.BILINEAR).resize(crop.size, Image.Resampling.BICUBIC)
        stem = name.split("/")[1].split(".")[0]
        yield {
            "image": {
                "bytes": codec.encode(np.asarray(crop)),
                "path": f"{side}/{LABELS[label]}/{stem}/{number:05d}.jpg",
            },
            "label": label,
            "class": CLASSES[kind],
            "source": NAME,
            "generator": GENERATOR if label == FAKE else None,
        }
