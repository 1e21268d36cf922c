"""Train the embedded generator on real images: first the autoencoder, then the denoiser on its latents.

Both stages keep a checkpoint that the same command goes on from; a checkpoint is replaced by rename, never
half-written. The denoiser's learning rate is warm-up, constant, then linear decay over the last fifth of `steps`,
so that training can be prolonged by asking for more steps.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cifake_core.errors import ConfigurationError
from cifake_core.generation import embedded_networks as networks
from cifake_core.generation import torch_environment
from cifake_core.generation.torch_training import (
    Journal,
    noted,
    refuse_other_seed,
    restore,
    save,
    tensor,
    update_average,
)

KL_WEIGHT = 5e-4
EDGE_WEIGHT = 0.5
EMA_DECAY = 0.9995
CLASS_DROPOUT = 0.1
DECAY_FRACTION = 0.2
LATENTS = "latents.npz"


@dataclass(frozen=True)
class Stage:
    """How one stage is trained: optimizer steps in all, images a step, peak learning rate."""

    steps: int
    batch: int = 64
    learning_rate: float = 1e-3
    seed: int = 0
    checkpoint_seconds: float = 180.0


def prepare(threads: int = 0) -> None:
    """Load torch, with so many threads (0: it chooses), before anything that takes long.

    Raises:
        ConfigurationError: torch or diffusers is not installed.
    """
    try:
        import diffusers
        import torch
    except ImportError as exc:
        raise ConfigurationError(torch_environment.missing("this")) from exc
    diffusers.utils.logging.set_verbosity_error()
    if threads:
        torch.set_num_threads(threads)


def train(images: np.ndarray, classes: np.ndarray, folder: Path, autoencoder: Stage, denoiser: Stage) -> None:
    """Both stages on images (N, 32, 32, 3) uint8 of classes (N,) 0 … 9; goes on from what `folder` holds.

    Raises:
        ConfigurationError: that is of another seed, or its denoiser learnt latents of a shorter autoencoder's training
            or of other images.
    """
    if (folder / "denoiser.pt").exists():
        refuse_other_seed(folder / "denoiser.pt", denoiser.seed)
        _refuse_other_latents(images, classes, folder, autoencoder.steps)
    else:
        refuse_other_seed(folder / "autoencoder.pt", autoencoder.seed)
    train_autoencoder(images, folder, autoencoder)
    latents, classes = encode_latents(images, classes, folder)
    train_denoiser(latents, classes, folder, denoiser)


def train_autoencoder(images: np.ndarray, folder: Path, stage: Stage) -> Path:
    """Train on images (N, 32, 32, 3) uint8 by L1, edge and KL losses; go on from `folder` where it was left.

    Returns the file with the trained weights.
    """
    import torch

    model = networks.autoencoder().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), stage.learning_rate, weight_decay=0.01, fused=True)
    ema = _Ema(model, 0.998)
    state = {"model": model, "optimizer": optimizer, "ema": ema}
    start = restore(folder / "autoencoder.pt", state)
    journal = Journal(folder / "autoencoder.csv", ("loss", "l1", "kl"))
    saved = time.monotonic()
    for step in range(start, stage.steps):
        generator = torch.Generator().manual_seed(stage.seed * 1_000_003 + step)
        _set_rate(optimizer, stage.learning_rate * _one_cycle(step, stage.steps))
        pick = torch.randint(len(images), (stage.batch,), generator=generator).numpy()
        batch = tensor(images[pick])
        batch = torch.where(torch.rand(stage.batch, 1, 1, 1, generator=generator) < 0.5, batch.flip(3), batch)
        folded = networks.fold(batch).contiguous(memory_format=torch.channels_last)
        posterior = model.encode(folded).latent_dist
        out = networks.unfold(model.decode(posterior.sample(generator)).sample)
        l1 = (out - batch).abs().mean()
        edges = sum((out.diff(dim=d) - batch.diff(dim=d)).abs().mean() for d in (2, 3))
        kl = posterior.kl().mean() / (networks.LATENT_CHANNELS * networks.LATENT_SIZE**2)
        loss = l1 + EDGE_WEIGHT * edges + KL_WEIGHT * kl
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        ema.update(model)
        journal.add(step, loss.item(), l1.item(), kl.item())
        if step + 1 == stage.steps or time.monotonic() - saved > stage.checkpoint_seconds:
            save(folder / "autoencoder.pt", step + 1, state, seed=stage.seed)
            saved = time.monotonic()
    return folder / "autoencoder.pt"


def encode_latents(images: np.ndarray, classes: np.ndarray, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Latents of images and of their mirror images, normalised per channel, and their classes; `folder/latents.npz`.

    What was encoded before is read back, if by as many steps of the autoencoder and from the same images.

    Returns latents (2, N, 6, 8, 8) float32 and classes (N,) 0 … 9.
    """
    import torch

    file, made_of = folder / LATENTS, _made_of(images, classes, folder)
    if not file.exists() or _differs(file, made_of):
        model = load(folder / "autoencoder.pt", networks.autoencoder())
        both: list[list[np.ndarray]] = [[], []]
        with torch.no_grad():
            for i in range(0, len(images), 256):
                batch = tensor(images[i : i + 256])
                for out, view in zip(both, (batch, batch.flip(3)), strict=True):
                    out.append(model.encode(networks.fold(view)).latent_dist.mean.numpy())
        latents = np.stack([np.concatenate(part) for part in both])
        mean, std = latents.mean((0, 1, 3, 4)), latents.std((0, 1, 3, 4))
        latents = (latents - mean[:, None, None]) / std[:, None, None]
        partial = file.with_suffix(".partial.npz")
        np.savez(partial, latents=latents, classes=classes, mean=mean, std=std, **made_of)
        partial.replace(file)
    with np.load(file) as stored:
        return stored["latents"], stored["classes"]


def _made_of(images: np.ndarray, classes: np.ndarray, folder: Path) -> dict[str, Any]:
    """What latents depend on, as their file says it."""
    return {
        "images_sha256": hashlib.sha256(images.tobytes() + classes.astype(np.uint8).tobytes()).hexdigest(),
        "autoencoder_steps": noted(folder / "autoencoder.pt", "step", 0),
    }


def _differs(file: Path, made_of: dict[str, Any]) -> bool:
    with np.load(file) as stored:  # older files do not say the steps
        return any(name in stored and stored[name].item() != value for name, value in made_of.items())


def _refuse_other_latents(images: np.ndarray, classes: np.ndarray, folder: Path, steps: int) -> None:
    made_of, file = _made_of(images, classes, folder), folder / LATENTS
    if steps > (done := made_of["autoencoder_steps"]):
        raise ConfigurationError(
            f"{folder}: the denoiser was trained on latents of {done} autoencoder steps; "
            f"go on with --autoencoder-steps {done}, or give another --folder"
        )
    if file.exists() and _differs(file, made_of):
        raise ConfigurationError(
            f"{folder}: the denoiser was trained on latents of other images, or of another autoencoder; "
            "go on with the CIFAKE_DATA of then, or give another --folder"
        )


def train_denoiser(latents: np.ndarray, classes: np.ndarray, folder: Path, stage: Stage) -> Path:
    """Train on latents (2, N, 6, 8, 8) of classes (N,) 0 … 9; go on from `folder` where it was left.

    Times are drawn logit-normal (Esser et al. 2024, https://arxiv.org/abs/2403.03206); one label in ten is
    dropped for classifier-free guidance (Ho & Salimans 2022, https://arxiv.org/abs/2207.12598).
    """
    import torch

    model = networks.denoiser().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(
        model.parameters(), stage.learning_rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True
    )
    ema = _Ema(model, EMA_DECAY)
    state = {"model": model, "optimizer": optimizer, "ema": ema}
    start = restore(folder / "denoiser.pt", state)
    journal = Journal(folder / "denoiser.csv", ("loss",))
    data, labels = torch.from_numpy(latents), torch.from_numpy(classes.astype(np.int64))
    saved = time.monotonic()
    for step in range(start, stage.steps):
        generator = torch.Generator().manual_seed(stage.seed * 1_000_003 + step)
        _set_rate(optimizer, stage.learning_rate * _warm_constant_decay(step, stage.steps))
        pick = torch.randint(data.shape[1], (stage.batch,), generator=generator)
        mirror = torch.randint(2, (stage.batch,), generator=generator)
        clean, label = data[mirror, pick], labels[pick]
        label = torch.where(torch.rand(stage.batch, generator=generator) < CLASS_DROPOUT, networks.NO_CLASS, label)
        when = torch.sigmoid(torch.randn(stage.batch, generator=generator))
        noise = torch.randn(clean.shape, generator=generator)
        at = when[:, None, None, None]
        noisy = ((1 - at) * clean + at * noise).contiguous(memory_format=torch.channels_last)
        out = model(noisy, when * networks.TIME_SCALE, class_labels=label).sample
        loss = (out - (noise - clean)).square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        ema.update(model)
        journal.add(step, loss.item())
        if step + 1 == stage.steps or time.monotonic() - saved > stage.checkpoint_seconds:
            save(folder / "denoiser.pt", step + 1, state, seed=stage.seed)
            saved = time.monotonic()
    return folder / "denoiser.pt"


def load(file: Path, model: Any, averaged: bool = True) -> Any:
    """Weights of a checkpoint, by default their exponential moving average, put into `model` for inference."""
    import torch

    state = torch.load(file, weights_only=True)
    model.load_state_dict(state["model"])
    if averaged:
        ema = _Ema(model, 0.0)
        ema.load_state_dict(state["ema"])
        ema.copy_to(model)
    return model.eval()


def _one_cycle(step: int, steps: int) -> float:
    warm = max(1, steps // 10)
    return (step + 1) / warm if step < warm else 0.5 + 0.5 * float(np.cos(np.pi * (step - warm) / (steps - warm)))


def _warm_constant_decay(step: int, steps: int) -> float:
    return min(1.0, (step + 1) / 500, (steps - step) / (DECAY_FRACTION * steps))


def _set_rate(optimizer: Any, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


class _Ema:
    """Exponential moving average of a model's weights, with a warm-up that forgets the random start."""

    def __init__(self, model: Any, decay: float) -> None:
        self.decay, self.updates = decay, 0
        self.weights = [p.detach().clone() for p in model.parameters()]

    def state_dict(self) -> dict[str, Any]:
        """Everything that goes into a checkpoint."""
        return {"weights": self.weights, "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Back from a checkpoint."""
        self.weights, self.updates = state["weights"], state["updates"]

    def update(self, model: Any) -> None:
        self.updates += 1
        update_average(self.weights, (p.detach() for p in model.parameters()), self.updates, self.decay)

    def copy_to(self, model: Any) -> None:
        for own, other in zip(self.weights, model.parameters(), strict=True):
            other.data.copy_(own)
