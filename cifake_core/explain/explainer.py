"""One way to ask for heatmaps, whatever the method: `heatmaps(model, images, method=…, blocks=…, target=…)`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import numpy as np

from cifake_core.explain import cams, perturbation, rollout, upsampling

SMOOTH = "smooth-"
ROLLOUT = "attention-rollout"
METHODS = (*cams.METHODS, *(SMOOTH + name for name in cams.METHODS), "scorecam", "occlusion", ROLLOUT)
WITHOUT_BLOCKS = ("occlusion", ROLLOUT)


class Model(Protocol):
    """What is explained: `cifake_core.bundle.Detector`, or anything that answers like it."""

    @property
    def attention(self) -> Sequence[str]:
        """The names of its layers of attention; most models have none."""
        ...

    def score(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Logits (N,) and P(REAL) (N,) of images (N, S, S, 3) uint8."""
        ...

    def explain(self, images: np.ndarray) -> Any:
        """An object with `logits` (N,), and `activations` and `gradients`: block name → (N, h, w, c).

        And `attention`: layer name → weights, as `rollout` takes them.
        """
        ...


def methods(model: Model) -> list[str]:
    """Those of METHODS that can explain a model: rollout needs attention."""
    return [name for name in METHODS if name != ROLLOUT or model.attention]


def choose_blocks(known: Sequence[str], wanted: str = "") -> list[str]:
    """The block names that an option means: one, several joined by `,`, `all`, or by default the last.

    Raises:
        ValueError: no such block; the message names those there are.
    """
    if wanted == "all":
        return list(known)
    names = list(dict.fromkeys(wanted.split(","))) if wanted else [known[-1]]
    for name in names:
        if name not in known:
            raise ValueError(f"no block {name!r}; this model has {', '.join(known)}")
    return names


def check(model: Model, method: str) -> None:
    """Can the method explain this model?

    Raises:
        ValueError: it cannot; the message says why.
    """
    if method not in METHODS:
        raise ValueError(f"no method {method!r}; there are {', '.join(METHODS)}")
    if method not in methods(model):
        raise ValueError(f"{method} follows a transformer's attention, and this model has none")


def heatmaps(
    model: Model,
    images: np.ndarray,
    *,
    method: str = "gradcam",
    blocks: Sequence[str],
    target: np.ndarray,
    guided: bool = False,
) -> np.ndarray:
    """Heatmaps (N, S, S) float32 in 0…1 of images (N, S, S, 3) uint8.

    Args:
        method: one of `methods(model)`.
        blocks: convolution blocks; the maps of several are averaged (a fusion). Those of WITHOUT_BLOCKS look at none.
        target: (N,) int, the label each map speaks for: 1 REAL, 0 FAKE.
        guided: follow the image's edges when a block's coarse map is brought to the image's size.

    Raises:
        ValueError: the method cannot explain this model.
    """
    check(model, method)
    size = images.shape[1]
    sign = np.where(np.asarray(target) == 1, 1, -1).astype(np.float32)
    if method == "occlusion":
        return cams.normalise(perturbation.occlusion(model.score, images, sign))
    if method == ROLLOUT:
        coarse = [rollout.rollout(list(model.explain(images).attention.values()))]
    elif method == "scorecam":
        activations = model.explain(images).activations
        coarse = [perturbation.scorecam(model.score, images, activations[block], sign) for block in blocks]
    elif method.startswith(SMOOTH):
        cam = cams.METHODS[method.removeprefix(SMOOTH)]
        coarse = perturbation.smooth(model.explain, images, cam, blocks, sign)
    else:
        out = model.explain(images)
        cam = cams.METHODS[method]
        coarse = [cam(out.activations[b], out.gradients[b] * sign[:, None, None, None]) for b in blocks]
    if guided:
        fine = [cams.normalise(upsampling.guided(cams.resize(each, size), images)) for each in coarse]
    else:
        fine = [cams.normalise(cams.resize(each, size)) for each in coarse]
    return fine[0] if len(fine) == 1 else cams.normalise(np.mean(fine, 0))


def predicted(probability_real: float, threshold: float) -> Literal["REAL", "FAKE"]:
    """The label that a probability stands for; an UNSURE verdict has one too, and its map is the one to look at."""
    return "REAL" if probability_real >= threshold else "FAKE"


def caption(label: str, probability_real: float, method: str, blocks: Sequence[str], target: str) -> str:
    """One line under a picture: the verdict, and what the heatmap shows."""
    where = "" if method in WITHOUT_BLOCKS else f" at {'+'.join(blocks)}"
    what = "where attention leads, for either label" if method == ROLLOUT else f"what speaks for {target}"
    return f"{label}, P(REAL) {probability_real:.3f}. {method}{where}: {what}"
