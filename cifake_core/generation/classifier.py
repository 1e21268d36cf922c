"""An independent judge of generated images: a CIFAR-10 classifier trained on real photographs only (PyTorch).

A small VGG-like network in the manner of Jordan 2024 (https://arxiv.org/abs/2404.00498): flips and shifts, AdamW,
one-cycle learning rate, label smoothing. It never sees a generated image.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from cifake_core.settings import CLASSES

log = logging.getLogger(__name__)

WIDTHS = (48, 96, 160)
FEATURES = WIDTHS[-1]
BATCH = 250
LEARNING_RATE = 4e-3
SHIFT = 3  # pixels


class Classifier:
    """A trained network: class scores and pooled features of images.

    Args:
        network: as `train` returns it.
    """

    def __init__(self, network: Any) -> None:
        self.network = network.eval()

    def __call__(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Images (N, 32, 32, 3) uint8 → scores (N, 10) and features (N, 160), float32; mirror images averaged."""
        import torch

        scores, features = [], []
        with torch.inference_mode():
            for start in range(0, len(images), 500):
                batch = _to_tensor(images[start : start + 500])
                views = [self.network[0](view) for view in (batch, batch.flip(3))]
                features.append(((views[0] + views[1]) / 2).numpy())
                scores.append(sum(self.network[1](view) for view in views).numpy() / 2)
        return np.concatenate(scores), np.concatenate(features)

    def agreement(self, images: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """Whether the best score is the asked class: (N,) bool, for classes (N,) 0 … 9."""
        return self(images)[0].argmax(1) == classes


def train(images: np.ndarray, classes: np.ndarray, folder: Path, epochs: int = 8, seed: int = 0) -> Classifier:
    """Train on real images (N, 32, 32, 3) uint8 of classes (N,) 0 … 9, or load what `folder` holds.

    A checkpoint is kept after each epoch; the same call goes on from it.
    """
    import torch

    torch.manual_seed(seed)
    network = _network().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=0.02, fused=True)
    loss_of = torch.nn.CrossEntropyLoss(label_smoothing=0.1)
    file = folder / "classifier.pt"
    begun = 0
    if file.exists():
        state = torch.load(file, weights_only=True)
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        begun = state["epoch"]
    folder.mkdir(parents=True, exist_ok=True)
    labels = torch.from_numpy(classes.astype(np.int64))
    batches = len(images) // BATCH or 1
    for epoch in range(begun, epochs):
        rng = np.random.default_rng((seed, epoch))
        order = rng.permutation(len(images))
        network.train()
        losses = 0.0
        for index in range(batches):
            done = (epoch * batches + index) / (epochs * batches)
            for group in optimizer.param_groups:
                group["lr"] = LEARNING_RATE * min(done / 0.2 + 0.02, (1 - done) / 0.8)
            pick = order[index * BATCH : (index + 1) * BATCH]
            batch = _to_tensor(_augmented(images[pick], rng))
            loss = loss_of(network(batch), labels[pick])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses += loss.item()
        log.info("classifier: epoch %d of %d, loss %.3f", epoch + 1, epochs, losses / batches)
        partial = file.with_suffix(".partial")
        torch.save({"epoch": epoch + 1, "network": network.state_dict(), "optimizer": optimizer.state_dict()}, partial)
        partial.replace(file)
    return Classifier(network)


def _network() -> Any:
    """Features (N, 160), then scores (N, 10)."""
    from torch import nn

    def block(before: int, width: int) -> list[Any]:
        first = [nn.Conv2d(before, width, 3, padding=1, bias=False), nn.MaxPool2d(2), nn.BatchNorm2d(width), nn.GELU()]
        return [*first, nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.GELU()]

    stem = [nn.Conv2d(3, 24, 2), nn.BatchNorm2d(24), nn.GELU()]
    blocks = [layer for before, width in zip((24, *WIDTHS), WIDTHS, strict=False) for layer in block(before, width)]
    features = nn.Sequential(*stem, *blocks, nn.AdaptiveMaxPool2d(1), nn.Flatten())
    return nn.Sequential(features, nn.Linear(FEATURES, len(CLASSES)))


def _augmented(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Half of them mirrored, each moved by up to SHIFT pixels, edges reflected."""
    padded = np.pad(images, ((0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0)), "reflect")
    size = images.shape[1]
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(1, 2))
    rows, columns = rng.integers(0, 2 * SHIFT + 1, (2, len(images)))
    moved = windows[np.arange(len(images)), rows, columns].transpose(0, 2, 3, 1)
    mirrored = rng.random(len(images)) < 0.5
    return np.where(mirrored[:, None, None, None], moved[:, :, ::-1], moved)


def _to_tensor(images: np.ndarray) -> Any:
    import torch

    scaled = (torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() - 118) / 63
    return scaled.contiguous(memory_format=torch.channels_last)
