"""The page to read before signing off a dataset: one HTML file, images and charts inside it, nothing fetched."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import numpy as np

from cifake_core.images import codec, dataset
from cifake_core.settings import CLASSES, LABELS
from cifake_core.validation.checks import Outcome
from cifake_core.validation.quarantine import Quarantined
from cifake_core.validation.result import Audit, ValidationResult

if TYPE_CHECKING:
    import pandas as pd

PER_CLASS = 10  # sample images per class and label
HISTOGRAMS = {
    "colourfulness": "distance between channels, grey levels; below 2 is greyscale",
    "brightness": "mean luminance, 0–255",
    "contrast": "deviation of luminance, 0–255",
    "entropy": "of the luminance histogram, bits",
    "edge_energy": "mean difference of neighbours, grey levels",
    "high_frequency": "share of the spectrum above half the Nyquist frequency",
    "file_bytes": "encoded size, bytes",
}
AUDITS = {
    "container": "File facts: tables, subsampling, metadata, header",
    "order": "Place among the rows",
    "name": "File name",
    "compression": "Traces of an earlier JPEG compression",
    "greyscale": "Colourfulness alone",
    "trivial": "Easy baseline: means, deviations, edges, spectrum",
    "trivial_with_size": "Easy baseline with encoded size",
}
BINS = 40
WIDTH, HEIGHT = 300, 90  # of a histogram, in SVG units


def page(
    result: ValidationResult,
    manifest: dataset.Manifest,
    tables: dict[str, pd.DataFrame],
    outcomes: list[Outcome],
    encoded: list[bytes],
    set_aside: Quarantined | None,
) -> str:
    """The report as HTML.

    Args:
        tables: by name, as `tables.build` gives them, with `images`.
        encoded: the encoded images in row order.
        set_aside: quarantined rows, if any.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("cifake_core.validation", "."), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters.update(inline=_inline, number=_number)
    images = tables["images"]
    return environment.get_template("report.html").render(
        result=result,
        manifest=manifest,
        totals={label: sum(rows.get(label, 0) for rows in manifest.counts.values()) for label in LABELS},
        splits=_records(tables["splits"]) if "splits" in tables else [],
        outcomes=outcomes,
        audits=_audits(result, outcomes),
        samples=_samples(images, encoded),
        histograms=_histograms(images),
        drift=_drift(tables["drift"]) if "drift" in tables else [],
        set_aside=set_aside,
        width=WIDTH,
        height=HEIGHT,
    )


def _audits(result: ValidationResult, outcomes: list[Outcome]) -> list[tuple[Audit, str, str]]:
    """Audits in the order of AUDITS, each with its text and the severity of the expectation it failed, if any."""
    failed: dict[int, str] = {}
    for outcome in outcomes:
        if outcome.table == "shortcuts" and not outcome.success:
            for row in outcome.rows:
                failed[row] = "critical" if "critical" in (failed.get(row), outcome.severity) else outcome.severity
    order = {name: place for place, name in enumerate(AUDITS)}
    rows = [(audit, AUDITS[audit.audit], failed.get(row, "")) for row, audit in enumerate(result.shortcuts)]
    return sorted(rows, key=lambda row: order[row[0].audit])


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return table.astype(object).where(table.notna(), None).to_dict("records")  # type: ignore[no-any-return]


def _samples(images: pd.DataFrame, encoded: list[bytes]) -> list[tuple[str, dict[str, list[bytes]]]]:
    """Class → label → the first images of train (rows are shuffled, so the first are as good as any)."""
    train = images[images["split"] == "train"]
    grid = []
    for kind in (*CLASSES, "unknown"):
        cells = {
            label: [
                encoded[row]
                for row in train.loc[(train["class"] == kind) & (train["label"] == label), "row"].head(PER_CLASS)
            ]
            for label in LABELS
        }
        if any(cells.values()):
            grid.append((kind, cells))
    return grid


def _histograms(images: pd.DataFrame) -> list[dict[str, Any]]:
    decoded = images[images["decodes"]]
    charts = []
    for feature, text in HISTOGRAMS.items():
        values = {label: decoded.loc[decoded["label"] == label, feature].to_numpy(float) for label in LABELS}
        both = np.concatenate(list(values.values()))
        if not len(both):
            continue
        low, high = np.quantile(both, [0.001, 0.999])
        edges = np.linspace(low, high if high > low else low + 1, BINS + 1)
        shares = {k: np.histogram(np.clip(v, low, high), edges)[0] / max(1, len(v)) for k, v in values.items()}
        top = max(share.max() for share in shares.values()) or 1
        charts.append(
            {
                "name": feature,
                "text": text,
                "low": low,
                "high": high,
                "paths": {label: _steps(share / top) for label, share in shares.items()},
                "medians": {label: float(np.median(v)) if len(v) else None for label, v in values.items()},
            }
        )
    return charts


def _steps(heights: np.ndarray) -> str:
    """An SVG path of a histogram's outline; `heights` (BINS,) in 0–1."""
    points = [f"M0 {HEIGHT}"]
    for index, height in enumerate(heights):
        y = f"{HEIGHT * (1 - height):.1f}"
        points.append(f"L{index * WIDTH / BINS:.1f} {y}L{(index + 1) * WIDTH / BINS:.1f} {y}")
    return "".join(points) + f"L{WIDTH} {HEIGHT}Z"


def _drift(table: pd.DataFrame) -> list[dict[str, Any]]:
    return _records(table.sort_values("psi", ascending=False))


def _inline(data: bytes) -> str:
    """An image as a data URL; one that no browser shows gets a grey square."""
    if data[:3] == b"\xff\xd8\xff":
        return f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return f"data:image/png;base64,{base64.b64encode(data).decode()}"
    return _inline(codec.encode(np.full((codec.SIZE, codec.SIZE, 3), 128, np.uint8)))


def _number(value: Any, digits: int = 3) -> str:
    if value is None:
        return "–"
    if isinstance(value, (int, np.integer)) or (float(value).is_integer() and abs(value) >= 10):
        return f"{int(value):,}"
    return f"{value:.{digits}f}"
