"""What drawing costs: the embedded generator beside diffusers' own loop, and our pipeline around a bare `pipe(…)`.

.venv-generate/bin/python -m benchmarks.generate

Both in turns in one process on the same cores; medians over rounds. Stable Diffusion has small random weights here, and
the published sizes of what our code touches: 512×512 images, the CLIP checker, prompts of 77 tokens.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import common


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=50, help="by the embedded generator, each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pipe-images", type=int, default=8, help="by Stable Diffusion, each round")
    parser.add_argument("--folder", type=Path, help="checkpoints of `cifake generate train`; else random weights")
    options = parser.parse_args()
    common.write_result(
        "generate",
        {
            "what": "medians over rounds, in turns in one process",
            "rounds": options.rounds,
            "embedded": _embedded(options),
            "stable diffusion, 512×512, small random weights": _around_pipe(options),
            "machine": common.machine("torch", "diffusers", "onnxruntime"),
        },
    )


def _in_turns(rounds: int, *ways: Callable[[], Any]) -> list[list[float]]:
    """Seconds of each way, each round; one round before that warms up."""
    seconds: list[list[float]] = [[] for _ in ways]
    for number in range(rounds + 1):
        for way, kept in zip(ways, seconds, strict=True):
            begun = time.perf_counter()
            way()
            if number:
                kept.append(time.perf_counter() - begun)
    return seconds


def _embedded(options: argparse.Namespace) -> dict[str, Any]:
    from cifake_core.generation import generators
    from cifake_core.generation.generators import Request
    from cifake_core.settings import CLASSES

    entry = generators.named("embedded")
    backend = generators.open_backend(entry)
    requests = [Request(CLASSES[index % len(CLASSES)], None, index) for index in range(options.images)]
    loop = _diffusers_loop(options.folder, entry.steps, entry.guidance)
    ours, theirs = _in_turns(options.rounds, lambda: backend.draw(requests), lambda: loop(requests))
    return {
        "images": options.images,
        "steps": entry.steps,
        "weights of the loop": "the same training's" if options.folder else "random",
        "ONNX Runtime, images a second": round(options.images / statistics.median(ours), 1),
        "diffusers' UNet2DModel and scheduler in PyTorch, images a second": round(
            options.images / statistics.median(theirs), 1
        ),
        "times as fast": round(statistics.median(b / a for a, b in zip(ours, theirs, strict=True)), 2),
    }


def _diffusers_loop(folder: Path | None, steps: int, guidance: float) -> Callable[[list[Any]], np.ndarray]:
    """As many evaluations of the same network by diffusers' scheduler, then its autoencoder: the usual loop."""
    import torch
    from diffusers import FlowMatchEulerDiscreteScheduler

    from cifake_core.generation import embedded, embedded_training
    from cifake_core.generation import embedded_networks as networks
    from cifake_core.settings import CLASSES

    unet, vae = networks.denoiser().eval(), networks.autoencoder().eval()
    mean, std = torch.zeros(1, 1, 1), torch.ones(1, 1, 1)
    if folder:
        embedded_training.load(folder / "denoiser.pt", unet)
        embedded_training.load(folder / "autoencoder.pt", vae)
        with np.load(folder / embedded_training.LATENTS) as stored:
            mean, std = (torch.from_numpy(stored[name])[:, None, None] for name in ("mean", "std"))
    unet, vae = (model.to(memory_format=torch.channels_last) for model in (unet, vae))
    scheduler = FlowMatchEulerDiscreteScheduler(shift=float(embedded.TIME_SHIFT))

    @torch.inference_mode()
    def draw(requests: list[Any]) -> np.ndarray:
        latents = torch.cat([torch.randn(1, *embedded.LATENT, generator=torch.manual_seed(r.seed)) for r in requests])
        classes = torch.tensor([CLASSES.index(request.object_class) for request in requests])
        both = torch.cat([classes, torch.full_like(classes, networks.NO_CLASS)])
        scheduler.set_timesteps(steps)
        for when in scheduler.timesteps:
            doubled = torch.cat([latents, latents])
            asked, free = unet(doubled, when.expand(len(doubled)), class_labels=both).sample.chunk(2)
            latents = scheduler.step(free + guidance * (asked - free), when, latents).prev_sample
        images = networks.unfold(vae.decode(latents * std + mean).sample).clamp(-1, 1)
        return ((images + 1) * 127.5).round().permute(0, 2, 3, 1).to(torch.uint8).numpy()

    return draw


def _around_pipe(options: argparse.Namespace) -> dict[str, Any]:
    import os

    import torch

    from cifake_core.generation import generators, plan, prompts
    from cifake_core.generation.run import run_shard
    from cifake_core.settings import settings
    from cifake_core.storage import Store
    from tests.generation import tiny_stable_diffusion

    count, batch = options.pipe_images, 4
    with tempfile.TemporaryDirectory() as folder:
        tiny_stable_diffusion.build(Path(folder) / "model", published_size=True)
        os.environ["CIFAKE_GENERATOR_WEIGHTS"] = str(Path(folder) / "model")
        settings.cache_clear()
        entry = generators.named("sd-turbo")
        backend = generators.open_backend(entry)
        store = Store((Path(folder) / "store").as_uri())
        one_prompt = prompts.Prompts(classes={"frog": ["a frog on a leaf"]})
        plans = (plan.make(entry.name, count, 0, seed, one_prompt) for seed in itertools.count())

        # A pipeline that redraws does more work than a bare call, not the same with overhead: nothing is flagged here.
        checker = backend.pipe.safety_checker
        for threshold in (checker.concept_embeds_weights, checker.special_care_embeds_weights):
            threshold.data.fill_(2.0)  # no cosine is that high

        def ours() -> None:
            made = next(plans)
            run_shard(store, made, made.shards[0], lambda: backend, batch)

        def bare() -> None:
            for start in range(0, count, batch):
                backend.pipe(
                    ["a frog on a leaf"] * batch,
                    num_inference_steps=entry.steps,
                    guidance_scale=entry.guidance,
                    generator=[torch.Generator().manual_seed(start + index) for index in range(batch)],
                    output_type="np",
                )

        around, inside = _in_turns(options.rounds, ours, bare)
    seconds = statistics.median(a - b for a, b in zip(around, inside, strict=True))
    return {
        "images": count,
        "batch": batch,
        "steps": entry.steps,
        "bare pipe(…), seconds an image": round(statistics.median(inside) / count, 4),
        "cifake, seconds an image": round(statistics.median(around) / count, 4),
        "overhead, ms an image": round(1000 * seconds / count, 2),
        "overhead, %": round(100 * (statistics.median(a / b for a, b in zip(around, inside, strict=True)) - 1), 2),
    }


if __name__ == "__main__":
    main()
