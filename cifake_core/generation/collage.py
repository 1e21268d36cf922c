"""The generator `collage`: real images whose fine detail is made wrong, by arithmetic alone; nothing is trained.

GANs trained on CIFAR-10 match its spectrum, but not how detail hangs together. Here shapes are a real image's and the
detail is another image's, noise of the same strength, or bent out of place, so that telling such images from real ones
takes coherence, not a spectrum. The idea is that of self-blended images (Shiohara & Yamasaki 2022,
https://arxiv.org/abs/2204.08376).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cifake_core.generation.generators import Generator, Request
from cifake_core.settings import CLASSES


class Collage:
    """Draws from the real images of CIFAKE_DATA.

    Raises:
        DataNotFoundError: no real images.
    """

    device = "cpu"
    batch = 100

    def __init__(self, generator: Generator, threads: int = 0) -> None:
        from cifake_core.generation import real

        self.images, self.classes = real.read("train")

    def draw(self, requests: Sequence[Request]) -> list[np.ndarray | None]:
        """One (32, 32, 3) uint8 image per request."""
        drawn: list[np.ndarray | None] = []
        for request in requests:
            rng = np.random.default_rng(request.seed)
            rows = rng.choice(np.flatnonzero(self.classes == CLASSES.index(request.object_class)), 2, replace=False)
            drawn.append(draw(self.images[rows[0]], self.images[rows[1]], rng))
        return drawn


def draw(image: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One image (32, 32, 3) uint8 from two: the first one's shapes, with detail that does not belong to them."""
    # Shifted by up to three pixels, so that no grid of a past encoding stays in its place.
    first, second = (np.roll(each.astype(np.float32), rng.integers(-3, 4, 2), (0, 1)) for each in (image, other))
    if rng.random() < 0.5:
        first = _bent(first, rng)
    sigma = rng.uniform(0.6, 1.8)
    shapes, detail = _split(first, sigma)
    kind = rng.integers(3)
    if kind == 0:
        detail = _split(second, sigma)[1]
    elif kind == 1:
        detail = _noise_like(detail, rng)
    share = rng.uniform(0.5, 1)
    mixed = shapes + share * rng.uniform(0.8, 1.25) * detail + (1 - share) * (first - shapes)
    return np.asarray(np.clip(np.rint(mixed), 0, 255), np.uint8)


def _split(image: np.ndarray, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """What a Gaussian of this standard deviation (pixels) leaves, and the rest."""
    from scipy.ndimage import gaussian_filter

    smooth = gaussian_filter(image, (sigma, sigma, 0), mode="nearest")
    return smooth, image - smooth


def _noise_like(detail: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Noise with the detail's spectrum (random phases, the same for the colours) and its strength in each place."""
    from scipy.ndimage import gaussian_filter

    turn = np.exp(1j * np.angle(np.fft.rfft2(rng.standard_normal(detail.shape[:2]))))
    noise = np.fft.irfft2(np.fft.rfft2(detail, axes=(0, 1)) * turn[..., None], s=detail.shape[:2], axes=(0, 1))
    there, here = (np.sqrt(gaussian_filter(x**2, (2, 2, 0)) + 1e-3) for x in (detail, noise))
    return np.asarray(noise * there / here)


def _bent(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The image through a smooth random displacement of a pixel or two, cubic, so that it stays sharp."""
    from scipy.ndimage import gaussian_filter, map_coordinates

    size = image.shape[0]
    field = gaussian_filter(rng.standard_normal((2, size, size)), (0, 3, 3), mode="wrap")
    field *= rng.uniform(0.8, 2.2) / field.std()
    at = np.indices((size, size)) + field
    return np.stack([map_coordinates(image[..., c], at, order=3, mode="mirror") for c in range(3)], -1)
