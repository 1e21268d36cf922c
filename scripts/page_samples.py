"""Make the page's built-in samples: photographs that scikit-image ships, and the embedded generator's pictures."""

from __future__ import annotations

from pathlib import Path

import skimage.data

from cifake_core.generation.embedded import Embedded
from cifake_core.generation.generators import GENERATORS, Request
from cifake_core.images import codec

FOLDER = Path(__file__).resolve().parents[1] / "services/detector/page/samples"
# name → (photograph in the public domain, left, top, side)
PHOTOGRAPHS = {
    "cat": ("chelsea", 40, 0, 300),
    "coffee": ("coffee", 110, 10, 380),
    "rocket": ("rocket", 140, 0, 427),
}
DRAWN = {"horse": 5, "ship": 2, "automobile": 8}  # class → seed


def main() -> None:
    """Write them."""
    FOLDER.mkdir(exist_ok=True)
    for name, (source, left, top, side) in PHOTOGRAPHS.items():
        crop = getattr(skimage.data, source)()[top : top + side, left : left + side]
        (FOLDER / f"photo-{name}.jpg").write_bytes(codec.encode(codec.resize(crop)))
    drawn = Embedded(GENERATORS["embedded"]).draw([Request(name, None, seed) for name, seed in DRAWN.items()])
    for name, pixels in zip(DRAWN, drawn, strict=True):
        (FOLDER / f"generated-{name}.jpg").write_bytes(codec.encode(pixels))


main()
