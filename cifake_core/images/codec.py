"""The one codec: decode within limits, resize by one recorded filter, encode as CIFAKE does.

CIFAKE holds JPEG, quality 75, 4:2:0, 32×32 for both labels (Bird & Lotfi 2024, https://doi.org/10.1109/ACCESS.2024.3356122).
Whatever enters otherwise passes `normalise`, so that no label can be told by its file format.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from cifake_core.errors import ImageRejectedError
from cifake_core.settings import settings

SIZE = 32
FORMATS = ("JPEG", "PNG", "WEBP")
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF")
RESIZE_FILTER = "lanczos"
ENCODER = "jpeg-q75-420"
_SCANS = 10  # of a progressive JPEG as large as is accepted; smaller ones may have more

warnings.filterwarnings("ignore", module=r"PIL\.")  # what Pillow finds odd is decoded or refused here, never printed


@dataclass(frozen=True)
class Decoded:
    """A decoded image: `pixels` is (H, W, 3) uint8 RGB, upright; the rest says what the file was."""

    pixels: np.ndarray
    format: str
    mode: str
    width: int
    height: int


@dataclass(frozen=True)
class Normalised:
    """An image as the detector knows it: `jpeg` bytes, their `pixels` (size, size, 3) uint8, and what was done."""

    jpeg: bytes
    pixels: np.ndarray
    format: str
    width: int
    height: int
    resized: bool
    reencoded: bool


def decode(data: bytes) -> Decoded:
    """Decode JPEG, PNG or WebP, told by content; EXIF orientation applied, alpha over white.

    Raises:
        ImageRejectedError: reason `empty`, `too_many_bytes`, `unsupported_format`, `too_many_pixels`,
            `too_many_scans`, `too_many_frames` or `corrupt`; all but the last before any pixel is decoded.
    """
    limits = settings()
    if not data:
        raise ImageRejectedError("empty", "the file is empty")
    if len(data) > limits.max_image_bytes:
        raise ImageRejectedError(
            "too_many_bytes", f"{len(data):,} bytes; at most {limits.max_image_bytes:,} are accepted"
        )
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as exc:
        raise ImageRejectedError(
            "too_many_pixels", f"too many pixels; at most {limits.max_image_pixels:,} are accepted"
        ) from exc
    except Exception as exc:  # Pillow's parsers raise many kinds on hostile headers
        if data.startswith(_MAGIC):
            raise ImageRejectedError("corrupt", "the image's header is damaged or cut short") from exc
        raise ImageRejectedError("unsupported_format", "not a JPEG, PNG or WebP image") from exc
    width, height = image.size
    if width * height > limits.max_image_pixels:
        message = f"{width}×{height} pixels; at most {limits.max_image_pixels:,} are accepted"
        raise ImageRejectedError("too_many_pixels", message)
    kind, mode = image.format or "", image.mode
    # Each scan passes over the whole picture and may take a few bytes: thousands would decode for hours.
    if kind in ("JPEG", "MPO") and data.count(b"\xff\xda") * width * height > _SCANS * limits.max_image_pixels:
        raise ImageRejectedError("too_many_scans", f"too many progressive scans for {width}×{height} pixels")
    if kind == "MPO":  # a phone's JPEG with a preview or gain map behind it: its first picture is the photograph
        kind = "JPEG"
    elif getattr(image, "n_frames", 1) > 1:
        raise ImageRejectedError("too_many_frames", "an animation; send one still image")
    try:
        ImageOps.exif_transpose(image, in_place=True)
        pixels = np.asarray(_rgb(image))
    except Exception as exc:
        raise ImageRejectedError("corrupt", f"the {kind} data is damaged or cut short") from exc
    return Decoded(pixels, kind, mode, width, height)


def effort(data: bytes) -> int:
    """Pixels that decoding a file comes to, by its header; a JPEG of very many scans counts several times.

    0 for what `decode` refuses by its header. At most CIFAKE_MAX_IMAGE_PIXELS.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            pixels = image.width * image.height
            scans = data.count(b"\xff\xda") if image.format in ("JPEG", "MPO") else 1
    except Exception:
        return 0
    pixels = pixels * max(scans, _SCANS) // _SCANS
    return pixels if pixels <= settings().max_image_pixels else 0


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I;16"):  # 16-bit greyscale PNG: convert() would clip instead of scale
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        rgba = image if image.mode == "RGBA" else image.convert("RGBA")  # convert() always copies
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def resize(pixels: np.ndarray, size: int = SIZE) -> np.ndarray:
    """Centre-crop (H, W, 3) uint8 to a square and resize it to (size, size, 3) by the recorded filter."""
    if pixels.shape[:2] == (size, size):
        return pixels
    return np.asarray(ImageOps.fit(Image.fromarray(pixels), (size, size), Image.Resampling.LANCZOS))


def encode(pixels: np.ndarray) -> bytes:
    """Encode (H, W, 3) uint8 RGB as CIFAKE does: JPEG, quality 75, 4:2:0, no metadata."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=75, subsampling="4:2:0")
    return buffer.getvalue()


def _header() -> bytes:
    data = encode(np.zeros((SIZE, SIZE, 3), np.uint8))
    scan = data.index(b"\xff\xda")
    return data[: scan + 2 + int.from_bytes(data[scan + 2 : scan + 4])]


_HEADER = _header()
_END = b"\xff\xd9"


def is_canonical(data: bytes) -> bool:
    """Would `encode` have written this file around its picture, byte for byte? Then it passes untouched.

    Every header byte (JFIF, quantisation, size, sampling, Huffman tables) must be the codec's own and nothing may
    follow the picture, so nothing but the picture can tell two canonical files apart. All published CIFAKE images are.
    """
    return data.startswith(_HEADER) and data.find(_END, len(_HEADER)) == len(data) - len(_END)


def _decode_canonical(data: bytes) -> np.ndarray:
    """Pixels (SIZE, SIZE, 3) uint8 of a file whose header is the codec's own: within all limits, nothing to turn."""
    try:
        return np.asarray(Image.open(io.BytesIO(data), formats=("JPEG",)))
    except Exception as exc:
        raise ImageRejectedError("corrupt", "the JPEG data is damaged or cut short") from exc


def normalise(data: bytes) -> Normalised:
    """Bring any accepted image to the canonical form; canonical bytes are kept as they are.

    Raises:
        ImageRejectedError: as `decode`.
    """
    if is_canonical(data):
        return Normalised(data, _decode_canonical(data), "JPEG", SIZE, SIZE, resized=False, reencoded=False)
    decoded = decode(data)
    facts = (decoded.format, decoded.width, decoded.height)
    small = resize(decoded.pixels)
    jpeg = encode(small)
    return Normalised(jpeg, decode(jpeg).pixels, *facts, resized=small is not decoded.pixels, reencoded=True)
