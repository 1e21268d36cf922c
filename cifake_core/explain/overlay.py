"""Heatmaps as pictures: colours, blending, and the strip original | heatmap | overlay as PNG."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageDraw, ImageFont

# Each map's colours at equal steps, interpolated between; matplotlib itself is not in the serving environment.
_ANCHORS = {
    "inferno": "000004 140b34 390963 5f136e 85216b a92e5e cb4149 e65d2f f78410 fcae12 f5db4c fcffa4",
    "viridis": "440154 472d7b 3b528b 2c728e 21918c 28ae80 5ec962 addc30 fde725",
    "turbo": "30123b 4146ac 4776ee 3aa3fc 1bd0d5 25eca7 61fc6c a4fc3c d2e935 f4c73a fe9b2d f36315 da3907 b21a01 7a0403",
    "jet": "000080 0000ff 0080ff 16ffe1 7dff7a e4ff13 ff9400 ff1e00 800000",
    "gray": "000000 ffffff",
}
COLORMAPS = tuple(_ANCHORS)


def colorize(heatmap: np.ndarray, colormap: str = "inferno") -> np.ndarray:
    """Colours (h, w, 3) uint8 of a heatmap (h, w) in 0…1.

    Raises:
        KeyError: a colormap that is not in COLORMAPS.
    """
    anchors = np.array([list(bytes.fromhex(colour)) for colour in _ANCHORS[colormap].split()])
    steps = np.linspace(0, 1, len(anchors))
    return np.stack([np.interp(heatmap, steps, anchors[:, k]) for k in range(3)], -1).round().astype(np.uint8)


def blend(pixels: np.ndarray, colours: np.ndarray, alpha: float = 0.5) -> np.ndarray:
    """`alpha` of the colours over the image; all three (h, w, 3) uint8."""
    return (pixels * (1 - alpha) + colours * alpha).round().astype(np.uint8)


def enlarge(pixels: np.ndarray, size: int) -> Image.Image:
    """The image (h, w, 3) uint8 at size×size, its pixels kept as squares: they are what the detector saw."""
    return Image.fromarray(pixels).resize((size, size), Image.Resampling.NEAREST)


def strip(
    pixels: np.ndarray,
    heatmap: np.ndarray,
    caption: str = "",
    *,
    size: int = 256,
    colormap: str = "inferno",
    alpha: float = 0.5,
) -> bytes:
    """PNG of original | heatmap | overlay, each size×size, with a caption line underneath.

    Args:
        pixels: (h, w, 3) uint8.
        heatmap: (h, w) float in 0…1, of the image's own size.
    """
    colours = colorize(heatmap, colormap)
    panels = [enlarge(panel, size) for panel in (pixels, colours, blend(pixels, colours, alpha))]
    gap, margin = max(2, size // 64), max(18, size // 10)
    canvas = Image.new("RGB", (3 * size + 2 * gap, size + (margin if caption else 0)), "white")
    for index, panel in enumerate(panels):
        canvas.paste(panel, (index * (size + gap), 0))
    if caption:
        font = ImageFont.load_default(max(10, round(margin * 0.62)))
        ImageDraw.Draw(canvas).text((gap, size + margin // 2), caption, "black", font, anchor="lm")
    return png(canvas)


def png(image: Image.Image) -> bytes:
    """The image's PNG bytes, compressed quickly."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
