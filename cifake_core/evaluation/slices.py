"""Named parts and damages of a test set, as data: a report lists them and a gate names them.

A slice takes all test images, or those of a class or generator, and may damage their pixels. Damaged pixels go to the
detector as they are: no second encoding, so figures compare with those of the literature.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from cifake_core.settings import CLASSES

Steps = tuple[tuple[str, float], ...]

# Name → operations with their amounts, applied in order.
DAMAGES: dict[str, Steps] = {
    "jpeg-95": (("jpeg", 95),),
    "jpeg-75": (("jpeg", 75),),
    "jpeg-50": (("jpeg", 50),),
    "jpeg-30": (("jpeg", 30),),
    "blur-0.5": (("blur", 0.5),),
    "blur-1": (("blur", 1),),
    "blur-2": (("blur", 2),),
    "noise-0.02": (("noise", 0.02),),
    "noise-0.05": (("noise", 0.05),),
    "half-size": (("rescale", 0.5),),
    "crop-28": (("crop", 28),),
    "darker": (("brightness", 0.7),),
    "brighter": (("brightness", 1.3),),
    "three-damages": (("blur", 0.5), ("noise", 0.02), ("jpeg", 75)),
    "greyscale": (("grey", 1),),
}


@dataclass(frozen=True)
class Slice:
    """A named part of a test set: `rows` (K,) int indices, and the damage their pixels take (none by default)."""

    name: str
    rows: np.ndarray
    steps: Steps = ()


def slices(classes: list[str], generators: list[str | None], damage_rows: int = 2000) -> Iterator[Slice]:
    """The slices of a test set of N images: object classes, generators of its FAKE, damages, greyscale.

    Args:
        classes: N object classes.
        generators: N generators, None for REAL. Generator slices hold FAKE images only.
        damage_rows: damages are measured on the first so many images (dataset rows are shuffled).
    """
    kinds = np.array(classes)
    for name in [*CLASSES, *sorted(set(classes) - set(CLASSES))]:
        if (rows := np.flatnonzero(kinds == name)).size:
            yield Slice(f"class:{name}", rows)
    for generator in sorted({g for g in generators if g}):
        yield Slice(f"generator:{generator}", np.flatnonzero([g == generator for g in generators]))
    first = np.arange(min(len(classes), damage_rows))
    for name, steps in DAMAGES.items():
        yield Slice(f"damage:{name}", first, steps)


def apply(images: np.ndarray, steps: Steps, seed: int = 0) -> np.ndarray:
    """Damage images (N, S, S, 3) uint8; the same seed gives the same noise."""
    for operation, amount in steps:
        images = _OPERATIONS[operation](images, amount, seed)
    return images


def damaged_in_turn(images: np.ndarray, seed: int = 0) -> np.ndarray:
    """Each of (N, S, S, 3) uint8 damaged by one of `DAMAGES`, one after the other; the same again for the same seed."""
    out = np.empty_like(images)
    for turn, steps in enumerate(DAMAGES.values()):
        out[turn :: len(DAMAGES)] = apply(images[turn :: len(DAMAGES)], steps, seed)
    return out


def _jpeg(images: np.ndarray, quality: float, _seed: int) -> np.ndarray:
    from PIL import Image

    out = np.empty_like(images)
    for index, image in enumerate(images):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=int(quality), subsampling="4:2:0")
        out[index] = np.asarray(Image.open(buffer))
    return out


def _blur(images: np.ndarray, sigma: float, _seed: int) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    return _bytes(gaussian_filter(images.astype(np.float32), (0, sigma, sigma, 0), mode="nearest"))


def _noise(images: np.ndarray, sigma: float, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 255 * sigma, images.shape)
    return _bytes(images + noise)


def _rescale(images: np.ndarray, factor: float, _seed: int) -> np.ndarray:
    size = images.shape[1]
    return _resized(_resized(images, round(size * factor)), size)


def _crop(images: np.ndarray, side: float, _seed: int) -> np.ndarray:
    size, side = images.shape[1], int(side)
    start = (size - side) // 2
    return _resized(images[:, start : start + side, start : start + side], size)


def _brightness(images: np.ndarray, factor: float, _seed: int) -> np.ndarray:
    return _bytes(images * np.float32(factor))


def _grey(images: np.ndarray, _amount: float, _seed: int) -> np.ndarray:
    """Luma as ITU-R BT.601 weighs it, in all three channels."""
    luma = images.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    return np.repeat(_bytes(luma)[..., None], 3, axis=-1)


def _resized(images: np.ndarray, size: int) -> np.ndarray:
    """Bicubic, Pillow's default, which antialiases when it shrinks."""
    from PIL import Image

    return np.stack([np.asarray(Image.fromarray(i).resize((size, size), Image.Resampling.BICUBIC)) for i in images])


def _bytes(values: np.ndarray) -> np.ndarray:
    return np.asarray(np.clip(np.rint(values), 0, 255), np.uint8)


_OPERATIONS: dict[str, Callable[[np.ndarray, float, int], np.ndarray]] = {
    "jpeg": _jpeg,
    "blur": _blur,
    "noise": _noise,
    "rescale": _rescale,
    "crop": _crop,
    "brightness": _brightness,
    "grey": _grey,
}
