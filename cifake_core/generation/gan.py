"""Small class-conditional GANs for two CPU cores: they differ in objective, upsampling and what they start from.

Those with a number in their name paint a real image's thumbnail of that many pixels a side anew: its shapes are right
after minutes of training, and only the detail, which detectors look at, is the network's own.

Trained by `cifake generate train --generator NAME` on real images; a folder then holds `checkpoint.pt`, to go on from,
and `weights.pt`, the moving average of the generator's weights, to draw with.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cifake_core.generation.generators import Generator, Request
from cifake_core.generation.torch_training import Journal, go_on, keep, pixels, tensor, update_average
from cifake_core.settings import CLASSES

NOISE = 96
EMA_DECAY = 0.999
BATCH = 32
CHECKPOINT_SECONDS = 60.0


@dataclass(frozen=True)
class Recipe:
    """One GAN.

    Attributes:
        objective: `bce` (Goodfellow et al. 2014, https://arxiv.org/abs/1406.2661, non-saturating), `hinge`
            (Miyato et al. 2018, https://arxiv.org/abs/1802.05957) or `least-squares` (https://arxiv.org/abs/1611.04076).
        upsampling: transposed convolution (DCGAN, https://arxiv.org/abs/1511.06434), nearest neighbour before a
            convolution, or pixel shuffle after one (https://arxiv.org/abs/1609.05158).
        spectral: spectral normalisation of the discriminator; batch normalisation otherwise.
        sharp: the discriminator begins with a convolution at full resolution.
        width: channels at half resolution.
        thumbnail: side of a real image's thumbnail that the generator paints anew (as SRGAN does,
            https://arxiv.org/abs/1609.04802); 0: it starts from noise.
    """

    objective: Literal["bce", "hinge", "least-squares"]
    upsampling: Literal["transposed", "nearest", "shuffle"]
    spectral: bool
    sharp: bool
    width: int
    thumbnail: int = 0


RECIPES = {
    "dcgan": Recipe("bce", "transposed", spectral=False, sharp=False, width=48),
    "dcgan-8": Recipe("bce", "transposed", spectral=False, sharp=False, width=48, thumbnail=8),
    "sngan-4": Recipe("hinge", "nearest", spectral=True, sharp=True, width=40, thumbnail=4),
    "lsgan-8": Recipe("least-squares", "shuffle", spectral=True, sharp=True, width=40, thumbnail=8),
}


def generator_network(recipe: Recipe) -> Any:
    """Noise (N, 96), classes (N,) and thumbnails (N, 3, T, T) or None → images (N, 3, 32, 32) in [-1, 1]."""
    import torch
    from torch import nn

    def up(before: int, after: int) -> list[Any]:
        if recipe.upsampling == "transposed":
            return [nn.ConvTranspose2d(before, after, 4, 2, 1, bias=False)]
        if recipe.upsampling == "nearest":
            return [nn.Upsample(scale_factor=2), nn.Conv2d(before, after, 3, padding=1, bias=False)]
        return [nn.Conv2d(before, 4 * after, 3, padding=1, bias=False), nn.PixelShuffle(2)]

    width, start = recipe.width, recipe.thumbnail or 4
    stages = [4 * width, 2 * width, width, width // 2][start // 8 :]

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.classes = nn.Embedding(len(CLASSES), NOISE)
            self.start = nn.Linear(2 * NOISE, stages[0] * start**2)
            self.thumbnail = nn.Conv2d(3, stages[0], 3, padding=1) if recipe.thumbnail else None
            layers = [nn.BatchNorm2d(stages[0]), nn.ReLU()]
            for before, after in itertools.pairwise(stages):
                layers += [*up(before, after), nn.BatchNorm2d(after), nn.ReLU()]
                if recipe.upsampling != "transposed" and after >= width:
                    layers += [nn.Conv2d(after, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
            self.body = nn.Sequential(*layers, nn.Conv2d(stages[-1], 3, 3, padding=1), nn.Tanh())

        def forward(self, noise: Any, classes: Any, thumbnails: Any = None) -> Any:
            x = self.start(torch.cat([noise, self.classes(classes)], 1)).view(len(noise), stages[0], start, start)
            if self.thumbnail is not None:
                x = x + self.thumbnail(thumbnails)
            return self.body(x.contiguous(memory_format=torch.channels_last))

    return Network().to(memory_format=torch.channels_last)


def discriminator_network(recipe: Recipe) -> Any:
    """Images (N, 3, 32, 32), classes (N,) → (N,); told the class by projection (https://arxiv.org/abs/1802.05637)."""
    import torch
    from torch import nn

    wrap = nn.utils.parametrizations.spectral_norm if recipe.spectral else lambda layer: layer
    width = recipe.width
    shapes = [(3, width, 4, 2), (width, 2 * width, 4, 2), (2 * width, 4 * width, 4, 2)]
    if recipe.sharp:
        shapes = [(3, width // 2, 3, 1), (width // 2, width, 4, 2), (width, width, 3, 1), *shapes[1:]]

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layers: list[Any] = []
            for number, (before, after, size, stride) in enumerate(shapes):
                layers.append(wrap(nn.Conv2d(before, after, size, stride, 1)))
                layers += [] if recipe.spectral or not number else [nn.BatchNorm2d(after)]
                layers.append(nn.LeakyReLU(0.1 if recipe.spectral else 0.2))
            self.body = nn.Sequential(*layers)
            self.out = wrap(nn.Linear(shapes[-1][1], 1))
            self.classes = wrap(nn.Embedding(len(CLASSES), shapes[-1][1]))

        def forward(self, images: Any, classes: Any) -> Any:
            x = self.body(images).mean((2, 3)) * 4
            return self.out(x)[:, 0] + (self.classes(classes) * x).sum(1)

    return Network().to(memory_format=torch.channels_last)


def _losses(objective: str, real: Any, fake: Any) -> Any:
    """The discriminator's loss."""
    from torch.nn import functional as F

    if objective == "bce":
        return F.softplus(-real).mean() + F.softplus(fake).mean()
    if objective == "hinge":
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
    return (real - 1).square().mean() + fake.square().mean()


def _fooling(objective: str, fake: Any) -> Any:
    """The generator's loss."""
    from torch.nn import functional as F

    if objective == "bce":
        return F.softplus(-fake).mean()
    return -fake.mean() if objective == "hinge" else (fake - 1).square().mean()


def train(name: str, images: np.ndarray, classes: np.ndarray, folder: Path, steps: int, seed: int = 0) -> Path:
    """Train on images (N, 32, 32, 3) uint8 of classes (N,) 0 … 9, 32 a step; go on from what `folder` holds.

    Images are mirrored and shifted by up to three pixels, so that no grid of a past encoding stays in its place.

    Returns the file with the averaged weights of the generator.

    Raises:
        ConfigurationError: `folder` holds a training from another seed.
    """
    import torch
    from torch.nn import functional as F

    recipe, batch = RECIPES[name], BATCH
    torch.manual_seed(seed)
    networks = {"generator": generator_network(recipe), "discriminator": discriminator_network(recipe)}
    drawer, judge = networks.values()
    optimizers = {
        part: torch.optim.Adam(net.parameters(), 4e-4 if part == "discriminator" else 2e-4, (0.5, 0.99))
        for part, net in networks.items()
    }
    average = {key: value.clone() for key, value in drawer.state_dict().items()}
    state = {"average": average, **networks, **{f"{part} optimizer": each for part, each in optimizers.items()}}
    done = go_on(folder, state, seed)
    journal, saved = Journal(folder / "training.csv", ("discriminator", "generator")), time.monotonic()
    for step in range(done, steps):
        random = torch.Generator().manual_seed(seed * 1_000_003 + step)
        pick = torch.randint(len(images), (batch,), generator=random)
        real, label = shifted(images[pick.numpy()], random), torch.from_numpy(classes[pick.numpy()])
        small = F.adaptive_avg_pool2d(real, recipe.thumbnail) if recipe.thumbnail else None
        fake = drawer(torch.randn(batch, NOISE, generator=random), label, small)

        judge.requires_grad_(True)
        judged = _losses(recipe.objective, judge(real, label), judge(fake.detach(), label))
        _descend(optimizers["discriminator"], judged)
        judge.requires_grad_(False)
        fooling = _fooling(recipe.objective, judge(fake, label))
        if small is not None:
            fooling = fooling + 10 * (F.adaptive_avg_pool2d(fake, recipe.thumbnail) - small).abs().mean()
        _descend(optimizers["generator"], fooling)
        update_average(average.values(), drawer.state_dict().values(), step, EMA_DECAY)
        journal.add(step, judged.item(), fooling.item())
        if step + 1 == steps or time.monotonic() - saved > CHECKPOINT_SECONDS:
            keep(folder, step + 1, state, seed=seed, images=len(images))
            saved = time.monotonic()
    return folder / "weights.pt"


def _descend(optimizer: Any, loss: Any) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def shifted(images: np.ndarray, random: Any) -> Any:
    """Images (N, 32, 32, 3) uint8 as (N, 3, 32, 32) in [-1, 1]; the batch is shifted, and half of it mirrored."""
    import torch
    from torch.nn import functional as F

    batch = tensor(images)
    x, y = torch.randint(7, (2,), generator=random).tolist()
    batch = F.pad(batch, (3, 3, 3, 3), mode="reflect")[:, :, y : y + 32, x : x + 32]
    mirrored = torch.where(torch.rand(len(batch), 1, 1, 1, generator=random) < 0.5, batch.flip(3), batch)
    return mirrored.contiguous(memory_format=torch.channels_last)


class Gan:
    """Draws with trained weights.

    Raises:
        ConfigurationError: no weights, torch is not installed, or (where it paints thumbnails) no real images.
    """

    device = "cpu"
    batch = 50

    def __init__(self, generator: Generator, threads: int = 0) -> None:
        from cifake_core.generation import real, trained

        weights = trained.load(generator.name, threads)
        self.recipe = RECIPES[generator.name]
        self.network = generator_network(self.recipe)
        self.network.load_state_dict(weights)
        self._real = real.read("train") if self.recipe.thumbnail else None
        self._settle()

    def _settle(self) -> None:
        """Measure the batch statistics of the averaged weights: those averaged on the way are of other weights.

        (Izmailov et al. 2018, https://arxiv.org/abs/1803.05407.) Without it pictures come out pale.
        """
        import torch
        from torch.nn import BatchNorm2d
        from torch.nn import functional as F

        for layer in self.network.modules():
            if isinstance(layer, BatchNorm2d):
                layer.reset_running_stats()
                layer.momentum = None  # the mean over all batches
        self.network.train()
        random = torch.Generator().manual_seed(0)
        with torch.inference_mode():
            for _ in range(16):
                classes, small = torch.randint(len(CLASSES), (64,), generator=random), None
                if self._real:
                    rows = torch.randint(len(self._real[0]), (64,), generator=random).numpy()
                    classes = torch.from_numpy(self._real[1][rows])
                    small = F.adaptive_avg_pool2d(tensor(self._real[0][rows]), self.recipe.thumbnail)
                self.network(torch.randn(64, NOISE, generator=random), classes, small)
        self.network.eval()

    def draw(self, requests: Sequence[Request]) -> list[np.ndarray | None]:
        """One (32, 32, 3) uint8 image per request."""
        import torch
        from torch.nn import functional as F

        draws = [np.random.default_rng(request.seed) for request in requests]
        classes = np.array([CLASSES.index(request.object_class) for request in requests])
        small = None
        if self._real:
            images, kinds = self._real
            rows = [rng.choice(np.flatnonzero(kinds == kind)) for rng, kind in zip(draws, classes, strict=True)]
            small = F.adaptive_avg_pool2d(tensor(images[rows]), self.recipe.thumbnail)
        noise = torch.from_numpy(np.stack([rng.standard_normal(NOISE, np.float32) for rng in draws]))
        with torch.inference_mode():
            return list(pixels(self.network(noise, torch.from_numpy(classes), small)))
