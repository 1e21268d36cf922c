"""From an image's bytes to a verdict or a heatmap, stage by stage."""

from __future__ import annotations

import base64
import itertools
import threading
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

import numpy as np

from cifake_core.client import answers
from cifake_core.client.answers import ExplainOptions
from cifake_core.errors import ImageRejectedError
from cifake_core.explain import explainer, faithfulness, overlay
from cifake_core.images import codec
from cifake_core.settings import LABELS, settings
from services.detector import metrics, problems
from services.detector.champion import Served
from services.detector.drift import watch
from services.detector.problems import ProblemError
from services.detector.shadow import shadow

LARGE = 4_000_000  # pixels; a larger image takes up to half a gigabyte while it is decoded, so one at a time
BATCH_PIXELS = 4  # a batch's images may have this many times the largest single image's

_large = threading.Lock()


class Scored(NamedTuple):
    """One image and its score: `pixels` (S, S, 3) uint8 are what the model saw."""

    image: codec.Normalised
    pixels: np.ndarray
    probability_real: float


class Explained(NamedTuple):
    """A heatmap (S, S) in 0…1, the label it speaks for, and the blocks it came from."""

    scored: Scored
    heatmap: np.ndarray
    target: Literal["REAL", "FAKE"]
    blocks: list[str]


def prepare(data: bytes, size: int) -> tuple[codec.Normalised, np.ndarray]:
    """Decode and normalise an image as training did: what it was, and pixels (size, size, 3) uint8.

    Raises:
        ProblemError: the image was refused.
    """
    alone = not codec.is_canonical(data) and codec.effort(data) > LARGE
    with _large if alone else nullcontext(), metrics.stage("decode"):
        try:
            image = codec.normalise(data)
        except ImageRejectedError as exc:
            metrics.rejected_images_total.labels(exc.reason).inc()
            raise problems.of_image(exc) from exc
    with metrics.stage("preprocess"):
        return image, codec.resize(image.pixels, size)


def score(served: Served, pixels: np.ndarray) -> list[float]:
    """P(REAL) of images (N, S, S, 3) uint8, counted as predictions."""
    with metrics.stage("model"):
        probabilities = served.detector.score(pixels)[1].tolist()
    for probability in probabilities:
        metrics.predicted(served.detector.label(probability), probability, served.version.version)
    return probabilities


def classified(served: Served, data: bytes) -> answers.Classification:
    """The verdict on one image.

    Raises:
        ProblemError: the image was refused.
    """
    scored = _scored(served, data)
    return answers.Classification(**_verdict(served, scored), model=model(served))


def classified_together(items: list[tuple[Served, bytes]]) -> list[answers.Classification | ProblemError]:
    """The verdicts on images of several requests, or the problem of each that was refused."""
    results: list[answers.Classification | ProblemError] = []
    for _, same in itertools.groupby(items, key=lambda item: id(item[0])):  # more than one only while models swap
        group = list(same)
        served = group[0][0]
        for each in _scored_all(served, [data for _, data in group]):
            if isinstance(each, Scored):
                results.append(answers.Classification(**_verdict(served, each), model=model(served)))
            else:
                results.append(each)
    return results


def classified_batch(served: Served, images: list[bytes]) -> answers.Batch:
    """The verdicts on several images; a refused one gets its problem instead.

    Raises:
        ProblemError: `too_many_pixels`, before any is decoded.
    """
    most = BATCH_PIXELS * settings().max_image_pixels
    if sum(codec.effort(data) for data in images if not codec.is_canonical(data)) > most:
        raise ProblemError("too_many_pixels", f"the images of a batch may have at most {most:,} pixels together")
    results = []
    for each in _scored_all(served, images):
        if isinstance(each, Scored):
            results.append(answers.BatchItem(verdict=answers.Verdict(**_verdict(served, each))))
        else:
            results.append(answers.BatchItem(problem=problems.problem(each.code, each.detail)))
    return answers.Batch(results=results, model=model(served))


def explain(served: Served, data: bytes, options: ExplainOptions) -> Explained:
    """An image's heatmap.

    Raises:
        ProblemError: the image was refused, or an option does not fit the model.
    """
    info = served.detector.info
    try:
        blocks = explainer.choose_blocks([block.name for block in info.blocks], options.block)
    except ValueError as exc:
        raise ProblemError("invalid_request", f"block: {exc}") from exc
    try:
        explainer.check(served.detector, options.method)
    except ValueError as exc:
        raise ProblemError("invalid_request", f"method: {exc}") from exc
    scored = _scored(served, data)
    if options.target == "predicted":
        target = explainer.predicted(scored.probability_real, info.threshold)
    else:
        target = options.target
    with metrics.stage("explain"):
        heatmap = explainer.heatmaps(
            served.detector,
            scored.pixels[None],
            method=options.method,
            blocks=blocks,
            target=np.array([LABELS.index(target)]),
            guided=options.guided,
        )[0]
    metrics.explanations_total.labels(options.method).inc()
    return Explained(scored, heatmap, target, blocks)


def picture(served: Served, data: bytes, options: ExplainOptions) -> bytes:
    """PNG of original | heatmap | overlay with the verdict underneath.

    Raises:
        ProblemError: as `explain`.
    """
    scored, heatmap, target, blocks = explain(served, data, options)
    label = served.detector.label(scored.probability_real)
    caption = explainer.caption(label, scored.probability_real, options.method, blocks, target)
    size, colours, alpha = options.size, options.colormap, options.alpha
    with metrics.stage("encode"):
        return overlay.strip(scored.pixels, heatmap, caption, size=size, colormap=colours, alpha=alpha)


def heatmap(served: Served, data: bytes, options: ExplainOptions) -> answers.HeatmapAnswer:
    """The heatmap as numbers, and how faithful it is.

    Raises:
        ProblemError: as `explain`.
    """
    scored, heat, target, blocks = explain(served, data, options)
    with metrics.stage("explain"):
        measured = faithfulness.insertion_deletion(
            served.detector.score, scored.pixels[None], heat[None], np.array([LABELS.index(target)])
        )
    faithful = float(measured.insertion[0] - measured.deletion[0])
    metrics.explanation_faithfulness.labels(options.method).observe(faithful)
    return answers.HeatmapAnswer(
        **_verdict(served, scored),
        model=model(served),
        method=options.method,
        blocks=blocks,
        target=target,
        seen="data:image/jpeg;base64," + base64.b64encode(scored.image.jpeg).decode(),
        heatmap=np.round(heat.astype(float), 4).tolist(),
        faithfulness=round(faithful, 4),
    )


def model(served: Served) -> answers.Model:
    """The model that answers."""
    version = served.version
    return answers.Model(
        name=version.name,
        version=version.version,
        dataset_version=version.dataset_version,
        topology=served.detector.info.topology,
    )


def card(served: Served) -> answers.ModelCard:
    """What the model says of itself."""
    info, version = served.detector.info, served.version
    return answers.ModelCard(
        model=model(served),
        image_size=info.image_size,
        parameters=info.parameters,
        threshold=info.threshold,
        unsure=info.unsure,
        blocks=[answers.Block(**block.model_dump()) for block in info.blocks],
        methods=explainer.methods(served.detector),
        colormaps=list(overlay.COLORMAPS),
        run_id=version.run_id or None,
        created=datetime.fromtimestamp(version.created, UTC) if version.created else None,
    )


def _scored(served: Served, data: bytes) -> Scored:
    (scored,) = _scored_all(served, [data])
    if isinstance(scored, ProblemError):
        raise scored
    return scored


def _scored_all(served: Served, images: list[bytes]) -> list[Scored | ProblemError]:
    size = served.detector.info.image_size
    prepared: list[tuple[codec.Normalised, np.ndarray] | ProblemError] = []
    for data in images:
        try:
            prepared.append(prepare(data, size))
        except ProblemError as exc:
            prepared.append(exc)
    good = [each for each in prepared if not isinstance(each, ProblemError)]
    pixels = [each for _, each in good]
    scores = iter(score(served, pixels[0][None] if len(good) == 1 else np.stack(pixels)) if good else [])
    results: list[Scored | ProblemError] = []
    for each in prepared:
        if isinstance(each, ProblemError):
            results.append(each)
            continue
        scored = Scored(*each, next(scores))
        watch.observe(served, scored.image.pixels, scored.probability_real)
        shadow.observe(served, scored.image.pixels, scored.probability_real)
        results.append(scored)
    return results


def _verdict(served: Served, scored: Scored) -> dict[str, Any]:
    info, image = served.detector.info, scored.image
    return {
        "label": served.detector.label(scored.probability_real),
        "probability_real": round(scored.probability_real, 6),
        "threshold": info.threshold,
        "unsure": info.unsure,
        "image": answers.Image(
            format=image.format,
            width=image.width,
            height=image.height,
            resized=image.resized,
            reencoded=image.reencoded,
        ),
        "warnings": _warnings(image),
    }


def _warnings(image: codec.Normalised) -> list[str]:
    found = []
    if min(image.width, image.height) > 2 * codec.SIZE:
        found.append(
            f"shrunk from {image.width}×{image.height}: the model has learnt from images of "
            f"{codec.SIZE}×{codec.SIZE} pixels, and shrinking hides what generators leave behind"
        )
    elif min(image.width, image.height) < codec.SIZE:
        found.append(f"enlarged from {image.width}×{image.height}: there is less in it than the model knows")
    if max(image.width, image.height) > 1.5 * min(image.width, image.height):
        found.append("only the square in the middle was looked at")
    return found
