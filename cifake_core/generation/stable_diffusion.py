"""Stable Diffusion and its relatives through diffusers' own pipelines, on a GPU where there is one."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from cifake_core.errors import ConfigurationError, ModelError
from cifake_core.generation import model_files, torch_environment
from cifake_core.generation.generators import DeviceMemoryError, Generator, Request
from cifake_core.settings import settings

log = logging.getLogger(__name__)

# No class of PyTorch's names these on a CPU.
# The last is oneDNN's, on a CPU, where a convolution's own working memory cannot be had.
_NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "could not create a primitive")


class StableDiffusion:
    """Runs one diffusers entry of the table: half precision on CUDA, float32 elsewhere.

    Attention is PyTorch's scaled-dot-product attention (diffusers' default), the denoiser's weights are channels-last,
    and CIFAKE_TORCH_COMPILE=true compiles it. Noise is drawn on the CPU from each request's own seed, so that it is the
    same on every device; a device may still round differently for another batch size.

    Raises:
        ConfigurationError: torch is not installed, or weights are out of reach.
        ModelError: weights are damaged or incomplete.
        DeviceMemoryError: they do not fit the device.
    """

    def __init__(self, generator: Generator, threads: int = 0) -> None:
        try:
            import torch
            import transformers

            transformers.utils.logging.set_verbosity_error()
            transformers.utils.logging.disable_progress_bar()
            import diffusers
        except ImportError as exc:
            raise ConfigurationError(torch_environment.missing(f"generator {generator.name!r}")) from exc
        diffusers.utils.logging.set_verbosity_error()
        diffusers.utils.logging.disable_progress_bar()
        if threads:
            torch.set_num_threads(threads)
        self.generator = generator
        self.device = "cuda" if torch.cuda.is_available() else "mps" if torch.mps.is_available() else "cpu"
        self.batch = 16 if self.device == "cuda" else 4
        folder = _folder(generator)
        kind = getattr(torch, generator.dtype) if self.device == "cuda" else torch.float32
        with self._memory(), _loading(folder):
            pipe = diffusers.AutoPipelineForText2Image.from_pretrained(
                folder, dtype=kind, variant=_variant(folder, generator), local_files_only=True
            ).to(self.device)
        if type(pipe.scheduler).__name__ != generator.scheduler:
            pipe.scheduler = getattr(diffusers, generator.scheduler).from_config(pipe.scheduler.config)
        if generator.checked and pipe.safety_checker is None:
            raise ModelError(f"{folder}: no safety checker; generator {generator.name!r} draws with it only")
        denoiser = getattr(pipe, "unet", None) or pipe.transformer
        denoiser.to(memory_format=torch.channels_last)
        if settings().torch_compile:
            denoiser.compile()
        pipe.set_progress_bar_config(disable=True)
        self.pipe = pipe

    def draw(self, requests: Sequence[Request]) -> list[np.ndarray | None]:
        """One (H, W, 3) uint8 image per request at the model's own size; None where the safety checker flagged it.

        Raises:
            DeviceMemoryError: too many at once.
        """
        import torch

        with self._memory():
            out = self.pipe(
                [request.prompt or request.object_class for request in requests],
                num_inference_steps=self.generator.steps,
                guidance_scale=self.generator.guidance,
                generator=[torch.Generator().manual_seed(request.seed) for request in requests],
                output_type="np",
            )
        flagged = getattr(out, "nsfw_content_detected", None) or [False] * len(requests)
        return [
            # An image of one colour is the checker's black, or half precision that overflowed: never data.
            None if bad or np.ptp(image) == 0 or not np.isfinite(image).all() else _to_bytes(image)
            for image, bad in zip(out.images, flagged, strict=True)
        ]

    @contextlib.contextmanager
    def _memory(self) -> Iterator[None]:
        import torch

        try:
            yield
        except RuntimeError as exc:  # torch.OutOfMemoryError is one
            if not any(words in str(exc) for words in _NO_MEMORY):
                raise
            if self.device == "cuda":
                torch.cuda.empty_cache()
            raise DeviceMemoryError(str(exc)) from None  # the traceback would keep the tensors alive


def _to_bytes(image: np.ndarray) -> np.ndarray:
    return (image * 255).round().astype(np.uint8)


def _folder(generator: Generator) -> Path:
    """The model's local folder; downloaded from the hub unless the settings point elsewhere."""
    if settings().generator_weights:
        return model_files.given(generator)
    from diffusers import DiffusionPipeline

    commit = model_files.revision(generator)
    try:
        return Path(DiffusionPipeline.download(generator.model, revision=commit, variant=generator.variant))
    except Exception as exc:  # requests', httpx's, the hub's and diffusers' own errors
        raise ConfigurationError(model_files.out_of_reach(generator)) from exc


def _variant(folder: Path, generator: Generator) -> str | None:
    return generator.variant if any(folder.rglob(f"*.{generator.variant}.safetensors")) else None


@contextlib.contextmanager
def _loading(folder: Path) -> Iterator[None]:
    try:
        yield
    except Exception as exc:  # diffusers, transformers, safetensors and json each raise their own
        if isinstance(exc, RuntimeError) and any(words in str(exc) for words in _NO_MEMORY):
            raise
        first = (str(exc).splitlines() or [type(exc).__name__])[0]
        raise ModelError(f"{folder}: weights are damaged or incomplete ({first}); fetch them again") from exc
