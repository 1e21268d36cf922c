"""What an image file says before any pixel is decoded: format, size, JPEG tables, metadata, and its name."""

from __future__ import annotations

import io
import re
import warnings
import zlib
from functools import cache, lru_cache
from typing import Any

from PIL import Image, JpegImagePlugin

from cifake_core.settings import CLASSES, LABELS

COLUMNS = (
    *("format", "width", "height", "mode", "channels", "quality", "tables", "subsampling", "progressive", "exif"),
    *("metadata_bytes", "header_bytes", "header_hash", "trailing_bytes"),
)
_START_OF_SCAN, _END_OF_IMAGE = b"\xff\xda", b"\xff\xd9"
_SUBSAMPLINGS = {-1: "none", 0: "4:4:4", 1: "4:2:2", 2: "4:2:0"}
_METADATA = ("exif", "icc_profile", "comment", "xmp", "photoshop", "mpf", "transparency")
_KAGGLE_NAME = re.compile(r"^(\d+)(?: \(([2-9]|10)\))?\.\w+$")


def describe(images: list[bytes]) -> dict[str, list[Any]]:
    """COLUMNS of encoded images, as lists in their order; None where a file has no such thing.

    `quality` is the 1–100 of the IJG scale whose tables the file carries, 0 for any other tables. `header_hash`
    covers everything before the compressed data: equal headers, equal container. `trailing_bytes` is -1 when a JPEG's
    end marker is missing.
    """
    rows = [_describe(data) for data in images]
    return {name: [row[index] for row in rows] for index, name in enumerate(COLUMNS)}


def _describe(data: bytes) -> tuple[Any, ...]:
    if data[:3] != b"\xff\xd8\xff":
        return (*_header(data, len(data)), 0)
    start = data.find(_START_OF_SCAN)
    header = data[: start + 2 + int.from_bytes(data[start + 2 : start + 4])] if start > 0 else data
    end = data.rfind(_END_OF_IMAGE)
    return (*_header(header, len(header)), len(data) - end - 2 if end > start else -1)


@lru_cache(maxsize=4096)
def _header(header: bytes, length: int) -> tuple[Any, ...]:
    """Facts of one header; a dataset made by one encoder has one header, so the parse is paid once."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image = Image.open(io.BytesIO(header))
        except Exception:  # Pillow's parsers raise many kinds; the `decodes` column says that it is unreadable
            return (*(None,) * 9, False, 0, 0, None)
    jpeg = isinstance(image, JpegImagePlugin.JpegImageFile)
    tables = (
        {k: tuple(v) for k, v in image.quantization.items()} if isinstance(image, JpegImagePlugin.JpegImageFile) else {}
    )
    sampling = JpegImagePlugin.get_sampling(image) if jpeg and image.mode in ("RGB", "YCbCr") else -1
    metadata = sum(len(image.info[key]) for key in _METADATA if isinstance(image.info.get(key), (bytes, str)))
    return (
        image.format,
        image.width,
        image.height,
        image.mode,
        len(image.getbands()),
        _qualities().get(_key(tables), 0) if jpeg else None,
        f"{zlib.crc32(repr(_key(tables)).encode()):08x}" if jpeg else None,
        _SUBSAMPLINGS.get(sampling, "other") if jpeg else None,
        bool(image.info.get("progressive", False)) if jpeg else None,
        "exif" in image.info,
        metadata,
        length if jpeg else 0,
        f"{zlib.crc32(header if jpeg else header[:8]):08x}",
    )


def _key(tables: dict[int, tuple[int, ...]]) -> tuple[tuple[int, ...], ...]:
    return tuple(tables[k] for k in sorted(tables))


@cache
def _qualities() -> dict[tuple[tuple[int, ...], ...], int]:
    """Tables → IJG quality, for colour (two tables) and greyscale (one) files."""
    found: dict[tuple[tuple[int, ...], ...], int] = {}
    for quality in range(1, 101):
        for mode in ("RGB", "L"):
            buffer = io.BytesIO()
            Image.new(mode, (8, 8)).save(buffer, "JPEG", quality=quality)
            image = JpegImagePlugin.JpegImageFile(io.BytesIO(buffer.getvalue()))
            found[_key({k: tuple(v) for k, v in image.quantization.items()})] = quality
    return found


def read_path(path: str | None) -> tuple[str | None, str | None, float]:
    """What a file's name says of it: label and class (None where it says nothing), and its number (NaN likewise).

    Kaggle's CIFAKE: `train/FAKE/1000 (7).jpg` is a FAKE frog, the class by number, no number for the first.
    A folder named as a class says the class.
    """
    *folders, name = (path or "").split("/")
    label = next((f.upper() for f in folders if f.upper() in LABELS), None)
    kind = next((f.lower() for f in folders if f.lower() in CLASSES), None)
    match = _KAGGLE_NAME.match(name)
    if label and folders[-1].upper() == label and match and kind is None:
        kind = CLASSES[int(match[2] or 1) - 1]
    digits = re.search(r"\d+", name)
    return label, kind, float(digits[0][:9]) if digits else float("nan")
