"""A small diffusion model on pixels, that paints real images anew from half-way noise.

Its network learns the clean image from a noisy one (Ho et al. 2020, https://arxiv.org/abs/2006.11239, on the
variance-preserving path a·image + b·noise, a² + b² = 1). To draw, a real image of the class is brought to half noise
and denoised by DDIM steps (SDEdit, https://arxiv.org/abs/2108.01073; DDIM, https://arxiv.org/abs/2010.02502): what a
sampler's last steps leave in the pixels is there, without the hours of training that good shapes would take.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cifake_core.generation.gan import shifted
from cifake_core.generation.generators import Generator, Request
from cifake_core.generation.torch_training import Journal, go_on, keep, pixels, tensor, update_average
from cifake_core.settings import CLASSES

WIDTHS = (24, 48, 96)
BATCH = 32
EMA_DECAY = 0.995
START = (0.35, 0.65)  # where on the path drawing starts: 0 is the image, 1 is noise
MOST = 0.7  # what is trained for: no more noise than this
CHECKPOINT_SECONDS = 60.0


def network() -> Any:
    """Noisy images (N, 3, 32, 32), times (N,) 0 … 1 → clean images. A U-Net whose time scales its channels."""
    import torch
    from torch import nn

    full, half, quarter = WIDTHS

    class Block(nn.Module):
        def __init__(self, before: int, after: int) -> None:
            super().__init__()
            self.first, self.second = (nn.Conv2d(n, after, 3, padding=1) for n in (before, after))
            self.norms = nn.ModuleList([nn.GroupNorm(8, before), nn.GroupNorm(8, after)])
            self.time = nn.Linear(64, 2 * after)
            self.skip = nn.Conv2d(before, after, 1) if before != after else nn.Identity()

        def forward(self, x: Any, time: Any) -> Any:
            scale, shift = self.time(time)[:, :, None, None].chunk(2, 1)
            y = self.first(nn.functional.silu(self.norms[0](x)))
            y = self.second(nn.functional.silu(self.norms[1](y) * (1 + scale) + shift))
            return self.skip(x) + y

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.time = nn.Sequential(nn.Linear(32, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU())
            self.enter = nn.Conv2d(3, full, 3, padding=1)
            self.down1, self.down2 = nn.Conv2d(full, half, 3, 2, 1), nn.Conv2d(half, quarter, 3, 2, 1)
            self.at_half, self.at_quarter = Block(half, half), nn.ModuleList([Block(quarter, quarter) for _ in "ab"])
            self.up2, self.up1 = nn.Conv2d(quarter, half, 3, padding=1), nn.Conv2d(half, full, 3, padding=1)
            self.back = Block(2 * half, half)
            self.leave = nn.Sequential(
                nn.Conv2d(2 * full, full, 3, padding=1), nn.SiLU(), nn.Conv2d(full, 3, 3, padding=1)
            )

        def forward(self, noisy: Any, times: Any) -> Any:
            angles = times[:, None] * torch.exp(torch.linspace(0, math.log(200), 16))
            time = self.time(torch.cat([angles.sin(), angles.cos()], 1))
            x = self.enter(noisy)
            y = self.at_half(self.down1(nn.functional.silu(x)), time)
            z = self.down2(y)
            for block in self.at_quarter:
                z = block(z, time)
            larger = nn.functional.interpolate(z, scale_factor=2.0)
            y = self.back(torch.cat([y, self.up2(larger)], 1), time)
            y = self.up1(nn.functional.interpolate(y, scale_factor=2.0))
            return noisy * torch.cos(times * math.pi / 2)[:, None, None, None] + self.leave(torch.cat([x, y], 1))

    return Network().to(memory_format=torch.channels_last)


def _mixed(images: Any, noise: Any, times: Any) -> Any:
    angle = times[:, None, None, None] * (math.pi / 2)
    return angle.cos() * images + angle.sin() * noise


def train(images: np.ndarray, folder: Path, steps: int, seed: int = 0) -> Path:
    """Train on images (N, 32, 32, 3) uint8, 32 a step; go on from what `folder` holds.

    Returns the file with the averaged weights.

    Raises:
        ConfigurationError: `folder` holds a training from another seed.
    """
    import torch

    torch.manual_seed(seed)
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, (0.9, 0.99))
    average = {key: value.clone() for key, value in model.state_dict().items()}
    state = {"average": average, "model": model, "optimizer": optimizer}
    done = go_on(folder, state, seed)
    journal, saved = Journal(folder / "training.csv", ("loss",)), time.monotonic()
    for step in range(done, steps):
        random = torch.Generator().manual_seed(seed * 1_000_003 + step)
        pick = torch.randint(len(images), (BATCH,), generator=random)
        clean = shifted(images[pick.numpy()], random)
        times = MOST * torch.rand(BATCH, generator=random)
        noisy = _mixed(clean, torch.randn(clean.shape, generator=random), times)
        weight = 1 / (times + 0.1)
        loss = ((model(noisy, times) - clean).square().mean((1, 2, 3)) * weight).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        update_average(average.values(), model.state_dict().values(), step, EMA_DECAY)
        journal.add(step, loss.item())
        if step + 1 == steps or time.monotonic() - saved > CHECKPOINT_SECONDS:
            keep(folder, step + 1, state, seed=seed, images=len(images))
            saved = time.monotonic()
    return folder / "weights.pt"


class PixelDiffusion:
    """Draws with trained weights, from real images of CIFAKE_DATA.

    Raises:
        ConfigurationError: no weights, or torch is not installed. DataNotFoundError: no real images.
    """

    device = "cpu"
    batch = 50

    def __init__(self, generator: Generator, threads: int = 0) -> None:
        from cifake_core.generation import real, trained

        weights = trained.load(generator.name, threads)
        self.steps = generator.steps
        self.network = network()
        self.network.load_state_dict(weights)
        self.network.eval()
        self.images, self.classes = real.read("train")

    def draw(self, requests: Sequence[Request]) -> list[np.ndarray | None]:
        """One (32, 32, 3) uint8 image per request."""
        import torch

        draws = [np.random.default_rng(request.seed) for request in requests]
        kinds = [CLASSES.index(request.object_class) for request in requests]
        rows = [rng.choice(np.flatnonzero(self.classes == kind)) for rng, kind in zip(draws, kinds, strict=True)]
        start = torch.tensor([rng.uniform(*START) for rng in draws], dtype=torch.float32)
        noise = torch.from_numpy(np.stack([rng.standard_normal((3, 32, 32), np.float32) for rng in draws]))
        # Shifted by up to three pixels, so that no grid of a past encoding stays in its place.
        turns = [rng.integers(-3, 4, 2) for rng in draws]
        moved = [np.roll(self.images[row], turn, (0, 1)) for row, turn in zip(rows, turns, strict=True)]
        x = _mixed(tensor(np.stack(moved)), noise, start).contiguous(memory_format=torch.channels_last)
        with torch.inference_mode():
            for now, then in itertools.pairwise(np.linspace(1, 0, self.steps + 1, dtype=np.float32)):
                clean = self.network(x, start * now).clamp(-1, 1)
                angle = (start * now * (math.pi / 2))[:, None, None, None]
                remaining = (x - angle.cos() * clean) / angle.sin()
                x = _mixed(clean, remaining, start * then)
        return list(pixels(x))
