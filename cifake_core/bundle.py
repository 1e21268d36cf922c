"""A model bundle: what training exports and everything else runs. No TensorFlow needed to use one.

A folder with `detector.json` (`BundleInfo`), two ONNX graphs and `parity.npz`:

- `score.onnx`: `images` (N, S, S, 3) uint8 → `logit` (N,) float32, `probability_real` (N,) float32.
- `explain.onnx`: `images` → `logit` (N,), and per convolution block b, in `BundleInfo.blocks` order,
  `activations_b` and `gradients_b`, both (N, h, w, c) float32; gradients are of the logit, not of the sigmoid.
  A transformer's also has the weights of each layer of attention from the input on, `attention1`, …, (N, heads, T, T)
  float32: how much each token takes from each; the last, (N, T, 1), is each token's share in the pooled one.
- `parity.npz`: `images` (K, S, S, 3) uint8 and `probability_real` (K,) float32 that Keras gave for them at export.
- `reference.json`, not in every bundle: the `ReferenceProfile` of its validation data, which live traffic is held to.

In MLflow a bundle is the artefact folder `detector` of the run that made the model version.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cifake_core.errors import ModelError
from cifake_core.monitoring.drift import ReferenceProfile

FILE = "detector.json"
REFERENCE = "reference.json"
ARTIFACT_PATH = "detector"
PARITY_TOLERANCE = 1e-4


class Block(BaseModel, frozen=True):
    """A convolution block that can be explained: its layer's name and the shape of its activations."""

    model_config = ConfigDict(extra="forbid")

    name: str
    height: int
    width: int
    channels: int


class BundleInfo(BaseModel, frozen=True):
    """What a bundle says of itself."""

    model_config = ConfigDict(extra="forbid")

    format: Literal[1] = 1
    topology: str
    image_size: int = 32
    parameters: int = Field(ge=0, description="Number of weights.")
    threshold: float = Field(default=0.5, ge=0, le=1, description="REAL at or above this probability.")
    unsure: tuple[float, float] | None = Field(
        default=None, description="Probabilities strictly between these two are answered UNSURE; none by default."
    )
    dataset_version: str
    run_id: str | None = None
    seed: int | None = None
    blocks: list[Block]
    sha256: dict[str, str] = Field(description="File name → SHA-256 of every other file of the bundle.")
    extra: dict[str, Any] = Field(default_factory=dict, description="Room for later.")


def sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class Explanation:
    """Logits (N,) and, per block, activations and gradients of the logit, each (N, h, w, c) float32.

    And per layer of attention its weights, as the bundle has them; a network without attention has none.
    """

    logits: np.ndarray
    activations: dict[str, np.ndarray]
    gradients: dict[str, np.ndarray]
    attention: dict[str, np.ndarray] = field(default_factory=dict)


class Detector:
    """A verified bundle, ready to score and explain with ONNX Runtime.

    Args:
        folder: a bundle folder.
        threads: ONNX Runtime's intra-op threads; 0 lets it choose.

    `reference` is the profile of its validation data; None in bundles that carry none. `attention` names the layers of
    attention; most have none.

    Raises:
        ModelError: a file is missing, its hash is wrong, a graph does not load,
            or the parity examples do not come out as recorded.
    """

    def __init__(self, folder: Path, threads: int = 0) -> None:
        import onnxruntime

        self.folder = folder
        try:
            self.info = BundleInfo.model_validate_json((folder / FILE).read_bytes())
        except OSError as exc:
            raise ModelError(f"{folder}: no readable {FILE}; not a model bundle") from exc
        except ValidationError as exc:
            raise ModelError(
                f"{folder / FILE}: not a bundle this version of cifake reads ({exc.errors()[0]['msg']})"
            ) from exc
        for name, expected in self.info.sha256.items():
            if not (folder / name).is_file():
                raise ModelError(f"{folder}: {name} is missing")
            if sha256(folder / name) != expected:
                raise ModelError(f"{folder / name}: SHA-256 differs from the recorded one; fetch the version again")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        try:
            self._score, self._explain = (
                onnxruntime.InferenceSession(str(folder / name), options, providers=["CPUExecutionProvider"])
                for name in ("score.onnx", "explain.onnx")
            )
        except Exception as exc:  # onnxruntime's errors have no public common base
            raise ModelError(f"{folder}: an ONNX graph does not load ({exc})") from exc
        self.attention = [o.name for o in self._explain.get_outputs() if o.name.startswith("attention")]
        self.reference = self._reference()
        with np.load(folder / "parity.npz") as parity:
            images, recorded = parity["images"], parity["probability_real"]
        worst = float(np.abs(self.probability_real(images) - recorded).max())
        if not worst <= PARITY_TOLERANCE:  # NaN is not
            raise ModelError(f"{folder}: scores its parity examples {worst:.2g} away from the recorded probabilities")

    def _reference(self) -> ReferenceProfile | None:
        if REFERENCE not in self.info.sha256:
            return None
        try:
            return ReferenceProfile.model_validate_json((self.folder / REFERENCE).read_text())
        except ValidationError as exc:
            raise ModelError(f"{self.folder / REFERENCE}: not a reference profile ({exc.errors()[0]['msg']})") from exc

    def score(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Logits (N,) and P(REAL) (N,), float32, of images (N, S, S, 3) uint8."""
        logit, probability = self._score.run(["logit", "probability_real"], {"images": images})
        return logit, probability

    def probability_real(self, images: np.ndarray, batch: int = 512) -> np.ndarray:
        """P(REAL) (N,) float32 of images (N, S, S, 3) uint8, in batches."""
        parts = [self.score(np.ascontiguousarray(images[i : i + batch]))[1] for i in range(0, len(images), batch)]
        return np.concatenate(parts) if parts else np.empty(0, np.float32)

    def latency_ms(self, image: np.ndarray, runs: int = 50) -> float:
        """Median milliseconds to score an image (1, S, S, 3) uint8, here and now."""
        image, times = np.ascontiguousarray(image), []
        for _ in range(runs):
            start = time.perf_counter()
            self.score(image)
            times.append(time.perf_counter() - start)
        return 1000 * float(np.median(times))

    def explain(self, images: np.ndarray) -> Explanation:
        """What the Grad-CAM family needs, for images (N, S, S, 3) uint8, in one run of the explanation graph."""
        names = [output.name for output in self._explain.get_outputs()]
        out = dict(zip(names, self._explain.run(names, {"images": images}), strict=True))
        blocks = [block.name for block in self.info.blocks]
        return Explanation(
            out["logit"],
            {name: out[f"activations_{name}"] for name in blocks},
            {name: out[f"gradients_{name}"] for name in blocks},
            {name: out[name] for name in self.attention},
        )

    def label(self, probability_real: float) -> str:
        """REAL, FAKE, or UNSURE inside the bundle's abstain band."""
        if self.info.unsure and self.info.unsure[0] < probability_real < self.info.unsure[1]:
            return "UNSURE"
        return "REAL" if probability_real >= self.info.threshold else "FAKE"
