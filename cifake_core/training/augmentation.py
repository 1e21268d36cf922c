"""Random changes to batches of training images, on uint8 pixels: what a recipe asks for, and how it is done."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator

from cifake_core.evaluation import slices

Share = Annotated[float, Field(ge=0, le=1)]
GROUPS = 8  # amounts of damage drawn per batch
# JPEG quality, sigma in pixels, sigma as a share of white, share of the size, factor.
AMOUNTS = {"jpeg": (1, 100), "blur": (0, 16), "noise": (0, 1), "rescale": (0.1, 1), "brightness": (0, 4)}


class Augmentation(BaseModel, frozen=True):
    """Shares are probabilities per image. Everything is off by default."""

    model_config = ConfigDict(extra="forbid")

    flip: Share = 0
    shift: Annotated[int, Field(ge=0, le=16, description="At most so many pixels each way; edges are mirrored.")] = 0
    cutout: Share = 0
    cutout_side: Annotated[int, Field(ge=1, le=32, description="Side of the square painted grey, in pixels.")] = 8
    damage: Share = 0
    damages: dict[Literal["jpeg", "blur", "noise", "rescale", "brightness"], tuple[float, float]] = Field(
        default={}, description="Operation of `evaluation.slices` → smallest and largest amount."
    )
    again: Annotated[
        float, Field(ge=0, le=1, description="A second round damages this share of `damage`, of all images.")
    ] = 0
    cutmix: Annotated[float, Field(ge=0, le=1, description="Share given a square of another of the batch.")] = 0

    @field_validator("damages")
    @classmethod
    def _can_be_done(cls, damages: dict[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
        for name, (least, most) in damages.items():
            low, high = AMOUNTS[name]
            if not low <= least <= most <= high:
                raise ValueError(f"{name}: give a smallest and a largest amount from {low:g} to {high:g}")
        return damages

    @property
    def active(self) -> bool:
        """Does it change anything?"""
        return bool(self.flip or self.shift or self.cutout or self.cutmix or (self.damage and self.damages))


def augment(images: np.ndarray, plan: Augmentation, rng: np.random.Generator) -> np.ndarray:
    """New images (N, S, S, 3) uint8 from images of that shape: flip, shift, cutout, then damage."""
    count, size = images.shape[:2]
    out = images.copy()
    flipped = rng.random(count) < plan.flip
    out[flipped] = out[flipped, :, ::-1]
    if plan.shift:
        out = _shifted(out, rng.integers(0, 2 * plan.shift + 1, (2, count)), plan.shift)
    side = min(plan.cutout_side, size)
    corners = rng.integers(0, size - side + 1, (count, 2))
    for index in np.flatnonzero(rng.random(count) < plan.cutout):
        top, left = corners[index]
        out[index, top : top + side, left : left + side] = 128
    if plan.damages:
        for share in (plan.damage, plan.damage * plan.again):
            _damage(out, np.flatnonzero(rng.random(count) < share), plan, rng)
    return out


def mix(
    images: np.ndarray, labels: np.ndarray, plan: Augmentation, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """CutMix (Yun et al. 2019, https://arxiv.org/abs/1905.04899): new images, and labels (N, 1) mixed by area.

    A square of any area, from none of the image to all of it, is that of another image at the same place.
    """
    count, size = images.shape[:2]
    out, mixed = images.copy(), labels.astype(np.float32)
    others = rng.permutation(count)
    sides = np.rint(size * np.sqrt(rng.random(count))).astype(int)
    corners = rng.integers(0, size - sides + 1, (2, count))
    for index in np.flatnonzero(rng.random(count) < plan.cutmix):
        top, left, side, other = *corners[:, index], sides[index], others[index]
        out[index, top : top + side, left : left + side] = images[other, top : top + side, left : left + side]
        mixed[index] += (side / size) ** 2 * (labels[other] - labels[index])
    return out, mixed


def _shifted(images: np.ndarray, offsets: np.ndarray, most: int) -> np.ndarray:
    size = images.shape[1]
    padded = np.pad(images, ((0, 0), (most, most), (most, most), (0, 0)), mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(1, 2))
    return np.ascontiguousarray(windows[np.arange(len(images)), offsets[0], offsets[1]].transpose(0, 2, 3, 1))


def _damage(images: np.ndarray, chosen: np.ndarray, plan: Augmentation, rng: np.random.Generator) -> None:
    """Damage the chosen images in place, in groups that share an operation and its amount."""
    operations = list(plan.damages)
    for group in np.array_split(chosen, GROUPS):
        operation = operations[rng.integers(len(operations))]
        amount, seed = rng.uniform(*plan.damages[operation]), int(rng.integers(2**31))
        if len(group):
            images[group] = slices.apply(images[group], ((operation, amount),), seed)
