"""From an image's bytes to a verdict or a heatmap, stage by stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from cifake_core.client.answers import ExplainOptions
from cifake_core.errors import ImageRejectedError
from cifake_core.explain import explainer, overlay
from cifake_core.images import codec
from cifake_core.settings import LABELS
from services.detector import metrics, problems
from services.detector.champion import Served


@dataclass(frozen=True)
class Verdict:
    """One image's score by one model."""

    label: str
    probability_real: float
    image: codec.Normalised
    pixels: np.ndarray


def prepare(data: bytes, size: int) -> tuple[codec.Normalised, np.ndarray]:
    """Decode and normalise an image as training did: what it was, and pixels (1, size, size, 3) uint8.

    Raises:
        ProblemError: the image was refused.
    """
    with metrics.stage("decode"):
        try:
            image = codec.normalise(data)
        except ImageRejectedError as exc:
            metrics.rejected_images_total.labels(exc.reason).inc()
            raise problems.of_image(exc) from exc
    with metrics.stage("preprocess"):
        return image, np.ascontiguousarray(codec.resize(image.pixels, size)[None])


def classify(served: Served, data: bytes) -> Verdict:
    """The verdict on one image.

    Raises:
        ProblemError: the image was refused.
    """
    image, pixels = prepare(data, served.detector.info.image_size)
    with metrics.stage("model"):
        probability = float(served.detector.score(pixels)[1][0])
    label = served.detector.label(probability)
    metrics.predictions_total.labels(label, str(served.version.version)).inc()
    metrics.probability_real.observe(probability)
    return Verdict(label, probability, image, pixels[0])


def answer(served: Served, verdict: Verdict) -> dict[str, Any]:
    """The verdict as `answers.Classification`, without latency and request id."""
    info, image = served.detector.info, verdict.image
    return {
        "label": verdict.label,
        "probability_real": round(verdict.probability_real, 6),
        "threshold": info.threshold,
        "unsure": info.unsure,
        "model": model(served),
        "image": {
            "format": image.format,
            "width": image.width,
            "height": image.height,
            "resized": image.resized,
            "reencoded": image.reencoded,
        },
        "warnings": [],
    }


def model(served: Served) -> dict[str, Any]:
    """The model as `answers.Model`."""
    version = served.version
    return {
        "name": version.name,
        "version": version.version,
        "dataset_version": version.dataset_version,
        "topology": served.detector.info.topology,
    }


def explain(served: Served, data: bytes, options: ExplainOptions) -> tuple[Verdict, np.ndarray, str, list[str]]:
    """The verdict, its heatmap (S, S) in 0…1, the label the heatmap speaks for, and the blocks it came from.

    Raises:
        ProblemError: the image was refused, or an option does not fit the model.
    """
    info = served.detector.info
    try:
        blocks = explainer.choose_blocks([block.name for block in info.blocks], options.block)
    except ValueError as exc:
        raise problems.ProblemError("invalid_request", f"block: {exc}") from exc
    verdict = classify(served, data)
    target = (
        explainer.predicted(verdict.probability_real, info.threshold)
        if options.target == "predicted"
        else options.target
    )
    with metrics.stage("explain"):
        heatmap = explainer.heatmaps(
            served.detector,
            verdict.pixels[None],
            method=options.method,
            blocks=blocks,
            target=np.array([LABELS.index(target)]),
            guided=options.guided,
        )[0]
    metrics.explanations_total.labels(options.method).inc()
    return verdict, heatmap, target, blocks


def picture(served: Served, data: bytes, options: ExplainOptions) -> bytes:
    """PNG of original | heatmap | overlay with the verdict underneath.

    Raises:
        ProblemError: as `explain`.
    """
    verdict, heatmap, target, blocks = explain(served, data, options)
    caption = explainer.caption(verdict.label, verdict.probability_real, options.method, blocks, target)
    with metrics.stage("encode"):
        return overlay.strip(
            verdict.pixels,
            heatmap,
            caption,
            size=options.size,
            colormap=options.colormap,
            alpha=options.alpha,
        )
