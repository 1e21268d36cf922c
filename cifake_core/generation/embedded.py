"""The embedded generator: two ONNX graphs and a few lines of sampling; ONNX Runtime and NumPy, no torch.

`denoiser.onnx`: `latents` (N, 6, 8, 8) float32, `times` (N,) float32 0 … 1, `classes` (N,) int64 0 … 10 → `velocity`.
`decoder.onnx`: `latents` → `images` (N, 32, 32, 3) uint8. `embedded.json` (`Weights`) says what they are.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from cifake_core.errors import ConfigurationError, ModelError
from cifake_core.generation.generators import DeviceMemoryError, Generator, Request
from cifake_core.settings import CLASSES

WEIGHTS = Path(__file__).with_name("weights")
FILE = "embedded.json"
LATENT = (6, 8, 8)
NO_CLASS = len(CLASSES)
TIME_SHIFT = np.float32(1.5)
_NO_MEMORY = ("bad_alloc", "Failed to allocate memory")


class Weights(BaseModel, frozen=True):
    """What the shipped weights are: SHA-256 per file, and how they were trained."""

    model_config = ConfigDict(extra="forbid")

    format: Literal[1] = 1
    sha256: dict[str, str]
    training: dict[str, Any]

    @property
    def version(self) -> str:
        """Short hash over the files' hashes."""
        return hashlib.sha256("".join(self.sha256[name] for name in sorted(self.sha256)).encode()).hexdigest()[:12]


@cache
def weights(folder: Path = WEIGHTS) -> Weights:
    """The description of the weights, every file checked against it.

    Raises:
        ModelError: a file is missing, cut short or changed.
    """
    try:
        described = Weights.model_validate_json((folder / FILE).read_bytes())
        for name, expected in described.sha256.items():
            with (folder / name).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != expected:
                    raise ModelError(f"{folder / name}: cut short or changed (SHA-256 differs); install cifake again")
    except OSError as exc:
        raise ModelError(f"{exc.filename}: {exc.strerror}; the embedded generator's weights are incomplete") from exc
    except ValidationError as exc:
        raise ModelError(f"{folder / FILE}: not weights this version of cifake reads") from exc
    return described


def sample(denoiser: Any, noise: np.ndarray, classes: np.ndarray, steps: int, guidance: float) -> np.ndarray:
    """Integrate the flow from noise (t = 1) to latents (t = 0) by the two-step Adams-Bashforth method.

    Rectified flow: https://arxiv.org/abs/2209.03003; classifier-free guidance: https://arxiv.org/abs/2207.12598;
    steps are shorter near t = 1, where the velocity turns most (https://arxiv.org/abs/2403.03206, section 5.3.2).

    Args:
        denoiser: `(latents, times, classes) -> velocity`, arrays as in `denoiser.onnx`.
        noise: (N, 6, 8, 8) float32, standard normal.
        classes: (N,) int64, 0 … 9.
        guidance: 1 is none.
    """
    latents, before, length_before = noise, None, np.float32(1)
    even = np.linspace(1, 0, steps + 1, dtype=np.float32)
    times = TIME_SHIFT * even / (1 + (TIME_SHIFT - 1) * even)
    both = np.concatenate([classes, np.full_like(classes, NO_CLASS)])
    for time, after in itertools.pairwise(times):
        doubled = np.concatenate([latents, latents])
        asked, free = np.split(denoiser(doubled, np.full(len(doubled), time, np.float32), both), 2)
        velocity = free + np.float32(guidance) * (asked - free)
        length = after - time
        turn = 0 if before is None else (velocity - before) * (length / length_before / 2)
        latents = latents + length * (velocity + turn)
        before, length_before = velocity, length
    return latents


class Embedded:
    """Runs the shipped weights.

    Raises:
        ModelError: weights are damaged. ConfigurationError: ONNX Runtime is not installed.
    """

    device = "cpu"
    batch = 50

    def __init__(self, generator: Generator, threads: int = 0, folder: Path = WEIGHTS) -> None:
        try:
            import onnxruntime
        except ImportError as exc:
            raise ConfigurationError("generator 'embedded' needs ONNX Runtime: pip install 'cifake[serve]'") from exc
        weights(folder)
        self.generator = generator
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # leave the cores to who needs them
        self._denoiser, self._decoder = (
            onnxruntime.InferenceSession(folder / name, options, providers=["CPUExecutionProvider"])
            for name in ("denoiser.onnx", "decoder.onnx")
        )

    def draw(self, requests: Sequence[Request]) -> list[np.ndarray | None]:
        """One (32, 32, 3) uint8 image per request.

        Raises:
            ConfigurationError: a class that is not one of CIFAR-10's ten.
            DeviceMemoryError: too many at once.
        """
        if unknown := {request.object_class for request in requests} - set(CLASSES):
            raise ConfigurationError(f"generator 'embedded' draws the ten CIFAR-10 classes, not {min(unknown)!r}")
        noise = np.stack([np.random.default_rng(r.seed).standard_normal(LATENT, np.float32) for r in requests])
        classes = np.array([CLASSES.index(r.object_class) for r in requests], np.int64)
        try:
            latents = sample(self._velocity, noise, classes, self.generator.steps, self.generator.guidance)
            return list(self._decoder.run(["images"], {"latents": latents})[0])
        except Exception as exc:  # ONNX Runtime's own kinds, NumPy's MemoryError
            if not isinstance(exc, MemoryError) and not any(words in str(exc) for words in _NO_MEMORY):
                raise
            raise DeviceMemoryError(str(exc)) from None

    def _velocity(self, latents: np.ndarray, times: np.ndarray, classes: np.ndarray) -> np.ndarray:
        feed = {"latents": latents, "times": times, "classes": classes}
        return self._denoiser.run(["velocity"], feed)[0]  # type: ignore[no-any-return]
