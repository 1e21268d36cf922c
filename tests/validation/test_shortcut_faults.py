"""A label that can be read off something else than the picture is caught by the audit's expectation."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cifake_core.images import codec

Rows = dict[str, list[dict[str, Any]]]


@pytest.fixture
def neutral(clean: Callable[..., Rows], rng: np.random.Generator) -> Rows:
    """Clean rows whose pictures and file names say nothing, and that no one takes for the offline sample."""
    rows = clean()
    for part in rows.values():
        pictures = [row["image"]["bytes"] for row in part]
        for row, other in zip(part, rng.permutation(len(part)), strict=True):
            row["image"]["bytes"] = pictures[other]
    for number, row in enumerate(row for part in rows.values() for row in part):
        row["image"]["path"] = f"{number * 7919 % 1000:04d}.jpg"
        row["source"] = "folder"
    return rows


def _runs(length: int) -> Callable[[Rows], Rows]:
    """Rows in runs of one label."""

    def fault(rows: Rows) -> Rows:
        ordered = {}
        for split, part in rows.items():
            sides = [[row for row in part if row["label"] == label] for label in (0, 1)]
            starts = range(0, max(map(len, sides)), length)
            ordered[split] = [row for start in starts for side in sides for row in side[start : start + length]]
        return ordered

    return fault


def _of(label: int, change: Callable[[dict[str, Any]], None]) -> Callable[[Rows], Rows]:
    """The fault in all rows of one label."""

    def fault(rows: Rows) -> Rows:
        for row in [row for part in rows.values() for row in part if row["label"] == label]:
            change(row)
        return rows

    return fault


def _encode(row: dict[str, Any], pixels: np.ndarray | None = None, **options: Any) -> None:
    picture = Image.fromarray(codec.decode(row["image"]["bytes"]).pixels if pixels is None else pixels)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", **{"quality": 75, "subsampling": "4:2:0", **options})
    row["image"]["bytes"] = buffer.getvalue()


def _history(row: dict[str, Any]) -> None:
    _encode(row, quality=40)
    _encode(row)


def _dark(row: dict[str, Any]) -> None:
    _encode(row, (codec.decode(row["image"]["bytes"]).pixels * 0.35).astype(np.uint8))


def _grey(row: dict[str, Any]) -> None:
    pixels = codec.decode(row["image"]["bytes"]).pixels
    _encode(row, np.repeat(pixels.mean(2, keepdims=True).astype(np.uint8), 3, axis=2))


def _rename(row: dict[str, Any]) -> None:
    row["image"]["path"] = f"sd_{row['image']['path']}"


EXIF = Image.Exif()
EXIF[0x0131] = "a generator"

FAULTS: dict[str, tuple[str, Callable[[Rows], Rows]]] = {
    "FAKE first": ("order_tells_nothing", _runs(10_000)),
    "labels in turn": ("order_tells_nothing", _runs(1)),
    "labels in runs of eight": ("order_tells_nothing", _runs(8)),
    "EXIF on FAKE": ("container_tells_nothing", _of(0, lambda row: _encode(row, exif=EXIF))),
    "another encoder for REAL": ("container_tells_nothing", _of(1, lambda row: _encode(row, optimize=True))),
    "REAL compressed before": ("compression_alike", _of(1, _history)),
    "FAKE darker": ("not_too_easy", _of(0, _dark)),
    "FAKE darker, by size too": ("not_too_easy_with_size", _of(0, _dark)),
    "FAKE grey": ("greyscale_tells_little", _of(0, _grey)),
    "FAKE by another name": ("name_tells_nothing", _of(0, _rename)),
}


def test_neutral_rows_hold_no_shortcut(neutral, write, run):
    assert not run(write(neutral), "shortcuts").failed


@pytest.mark.parametrize("fault", FAULTS)
def test_shortcut_is_caught_by_its_expectation(neutral, write, run, caught, fault):
    name, spoil = FAULTS[fault]
    assert f"shortcuts.{name}" in caught(run(write(spoil(neutral)), "shortcuts"))


def test_offline_sample_may_be_easy_and_says_so(neutral, write, run, caught):
    for row in [row for part in neutral.values() for row in part]:
        row["source"] = "offline-sample"
    found = caught(run(write(_of(0, _dark)(neutral)), "shortcuts"))
    assert "shortcuts.offline_sample_is_easy" in found
    assert "shortcuts.not_too_easy" not in found
