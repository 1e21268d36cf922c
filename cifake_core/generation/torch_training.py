"""What trainings in PyTorch share: tensors of images, checkpoints replaced by rename, averaged weights, a journal."""

from __future__ import annotations

import csv
import logging
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from cifake_core.errors import ConfigurationError

log = logging.getLogger(__name__)


def tensor(images: np.ndarray) -> Any:
    """(N, 32, 32, 3) uint8 → (N, 3, 32, 32) float32 in [-1, 1]."""
    import torch

    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def pixels(batch: Any) -> np.ndarray:
    """The way back, rounded."""
    import torch

    scaled = ((batch.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return np.ascontiguousarray(scaled.permute(0, 2, 3, 1).numpy())


def save(file: Path, step: int, state: dict[str, Any], **said: Any) -> None:
    """Write modules, optimisers and dictionaries of tensors under their names, whole or not at all."""
    import torch

    partial = file.with_suffix(".partial")
    plain = {name: part if isinstance(part, dict) else part.state_dict() for name, part in state.items()}
    torch.save({"step": step, **said, **plain}, partial)
    partial.replace(file)


def restore(file: Path, state: dict[str, Any]) -> int:
    """Put a checkpoint back into `state`, in place; returns the steps that were done, 0 without one."""
    import torch

    file.parent.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        return 0
    kept = torch.load(file, weights_only=True)
    for name, part in state.items():
        if isinstance(part, dict):
            part.update(kept[name])
        else:
            part.load_state_dict(kept[name])
    log.info("going on from step %d of %s", kept["step"], file)
    return int(kept["step"])


def noted(file: Path, name: str, otherwise: Any) -> Any:
    """A checkpoint's `step`, or what else `save` was told; `otherwise` if there is no file or it does not say."""
    import torch

    return torch.load(file, weights_only=True).get(name, otherwise) if file.exists() else otherwise


def refuse_other_seed(file: Path, seed: int) -> None:
    """Let no training go on from another seed than the one it began with, as far as `file` knows that.

    Raises:
        ConfigurationError: the file is of another seed.
    """
    if (before := noted(file, "seed", seed)) != seed:
        raise ConfigurationError(f"{file}: trained with --seed {before}; go on with that, or give another --folder")


def update_average(average: Iterable[Any], values: Iterable[Any], step: int, decay: float) -> None:
    """One step, counted from 0, of an exponential moving average of tensors, in place; whole numbers are copied.

    The first steps decay faster, so that the random start is forgotten.
    """
    decay = min(decay, (1 + step) / (10 + step))
    for old, new in zip(average, values, strict=True):
        old.lerp_(new, 1 - decay) if new.is_floating_point() else old.copy_(new)


def go_on(folder: Path, state: dict[str, Any], seed: int) -> int:
    """Put back what `keep` kept; the steps that were done.

    Raises:
        ConfigurationError: that is of another seed.
    """
    file = folder / "checkpoint.pt"
    if file.exists():
        refuse_other_seed(folder / "weights.pt", seed)
    return restore(file, state)


def keep(folder: Path, step: int, state: dict[str, Any], **said: Any) -> Path:
    """Write `weights.pt`, the state's `average`, to draw with, and all of it to go on from; returns the former.

    The checkpoint comes last: a run that finds it finished has nothing left to write.
    """
    save(folder / "weights.pt", step, {"average": state["average"]}, **said)
    save(folder / "checkpoint.pt", step, state)
    return folder / "weights.pt"


class Journal:
    """Mean losses and speed, a CSV line each hundred steps."""

    def __init__(self, file: Path, names: tuple[str, ...]) -> None:
        self.file, self.names = file, names
        self.rows: list[tuple[float, ...]] = []
        self.since = time.monotonic()

    def add(self, step: int, *losses: float) -> None:
        """Note one step's losses."""
        self.rows.append(losses)
        if (step + 1) % 100:
            return
        means = np.mean(self.rows, 0)
        seconds = (time.monotonic() - self.since) / len(self.rows)
        new = not self.file.exists()
        with self.file.open("a", newline="") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(("step", *self.names, "seconds_per_step"))
            writer.writerow((step + 1, *(f"{mean:.5f}" for mean in means), f"{seconds:.3f}"))
        losses_by_name = ", ".join(f"{name} {mean:.4f}" for name, mean in zip(self.names, means, strict=True))
        log.info("step %d: %s, %.3f s a step", step + 1, losses_by_name, seconds)
        self.rows, self.since = [], time.monotonic()
