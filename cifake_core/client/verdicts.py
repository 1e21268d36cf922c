"""Classify many images, by the local champion or by a service; a bad file never stops the others."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence

from pydantic import BaseModel

from cifake_core.client import inputs
from cifake_core.errors import ImageRejectedError
from cifake_core.settings import MODEL_NAME
from cifake_core.verb import progress

BATCH = 64


class Row(BaseModel, frozen=True):
    """One image's verdict, or why there is none. The field order is the CSV's column order."""

    path: str
    label: str | None = None
    probability_real: float | None = None
    model_version: int | None = None
    dataset_version: str | None = None
    format: str | None = None
    width: int | None = None
    height: int | None = None
    resized: bool | None = None
    error: str | None = None


class Verdicts(BaseModel, frozen=True):
    """The rows, in input order."""

    model: str = MODEL_NAME
    images: list[Row]
    failed: int


def classify(names: Sequence[str], service: str | None = None, champion: str = "champion") -> Verdicts:
    """Classify what `inputs.expand` makes of the names.

    Args:
        service: a service's URL; without it the registry's model is run in this process.
        champion: the alias or version to run in this process.

    Raises:
        DataNotFoundError, RegistryError, ModelError, ServiceError.
    """
    paths = inputs.expand(names)
    made = _by_service(paths, service) if service else _here(paths, champion)
    rows = list(progress(made, "classifying", total=len(paths), unit="image"))
    return Verdicts(images=rows, failed=sum(row.error is not None for row in rows))


def _by_service(paths: list[str], url: str) -> Iterator[Row]:
    from cifake_core.client.remote import DetectorClient

    with DetectorClient(url) as service:
        service.status()  # an unreachable service is one error, not one per image
        for path in paths:
            try:
                answer = service.classify(inputs.read(path))
            except ImageRejectedError as exc:
                yield Row(path=path, error=str(exc))
                continue
            yield Row(
                path=path,
                label=answer.label,
                probability_real=answer.probability_real,
                model_version=answer.model.version,
                dataset_version=answer.model.dataset_version,
                **answer.image.model_dump(include={"format", "width", "height", "resized"}),
            )


def _here(paths: list[str], champion: str) -> Iterator[Row]:
    import numpy as np

    from cifake_core.bundle import Detector
    from cifake_core.images import codec
    from cifake_core.registry.artifacts import fetched

    version, folder = fetched(champion)
    detector = Detector(folder)
    for start in range(0, len(paths), BATCH):
        part = paths[start : start + BATCH]
        rows: list[Row] = []
        pixels = []
        for path in part:
            try:
                image = codec.normalise(inputs.read(path))
            except ImageRejectedError as exc:
                rows.append(Row(path=path, error=str(exc)))
                continue
            pixels.append(codec.resize(image.pixels, detector.info.image_size))
            rows.append(
                Row(
                    path=path,
                    format=image.format,
                    width=image.width,
                    height=image.height,
                    resized=image.resized,
                    model_version=version.version,
                    dataset_version=version.dataset_version,
                )
            )
        scores = iter(detector.probability_real(np.stack(pixels)) if pixels else [])
        for row in rows:
            if row.error is None:
                score = float(next(scores))
                verdict = {"label": detector.label(score), "probability_real": round(score, 6)}
                row = row.model_copy(update=verdict)
            yield row


def as_csv(verdicts: Verdicts) -> str:
    """The rows as CSV with a header, RFC 4180 quoting, no final newline."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(Row.model_fields), lineterminator="\n")
    writer.writeheader()
    writer.writerows(row.model_dump() for row in verdicts.images)
    return buffer.getvalue().rstrip("\n")


def as_table(verdicts: Verdicts) -> str:
    """The rows as an aligned table for people."""
    lines = [("image", "verdict", "P(REAL)", "")]
    for row in verdicts.images:
        if row.error:
            lines.append((row.path, "–", "–", row.error))
        else:
            note = f"{row.format} {row.width}×{row.height}" + (", resized" if row.resized else "")
            lines.append((row.path, row.label or "", f"{row.probability_real:.4f}", note))
    widths = [max(len(line[k]) for line in lines) for k in range(3)]
    text = [
        f"{path:<{widths[0]}}  {label:<{widths[1]}}  {score:>{widths[2]}}  {note}".rstrip()
        for path, label, score, note in lines
    ]
    versions = {row.model_version for row in verdicts.images if row.model_version is not None}
    return "\n".join([*text, f"{verdicts.model} version {', '.join(map(str, sorted(versions))) or '–'}"])
