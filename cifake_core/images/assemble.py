"""From sources and collections to a dataset version."""

from __future__ import annotations

import logging
from collections import Counter

import pyarrow as pa

from cifake_core import pipeline_metrics
from cifake_core.errors import ConfigurationError, DataNotFoundError
from cifake_core.images import collection, dataset, splits
from cifake_core.images.sources import SIDES, Side, Source, resolve
from cifake_core.settings import FAKE, LABELS, REAL
from cifake_core.storage import Store

log = logging.getLogger(__name__)


def collect(
    store: Store,
    label: int,
    train_rows: int | None = None,
    test_rows: int | None = None,
    seed: int = 0,
    skip_rejected: bool = False,
    source: Source | None = None,
) -> collection.Collection:
    """One label's images of a source, by default the resolved one, as a collection, balanced over classes.

    Args:
        label: FAKE (0) or REAL (1).
        train_rows, test_rows: how many; all by default.

    Raises:
        DataNotFoundError: no source, or too few images in it.
        ImageRejectedError: an image was refused and `skip_rejected` is not set.
    """
    source = source or resolve()
    sides: dict[Side, pa.Table] = {}
    left_out: Counter[str] = Counter()
    for side, rows in zip(SIDES, (train_rows, test_rows), strict=True):
        if rows == 0:
            continue
        raw = source.read(side, label, rows)
        chosen = splits.choose(raw, rows, seed, f"{source.location}: {side}")
        sides[side], refused = collection.canonical(chosen, skip_rejected)
        left_out += refused
    name = f"{source.name}-{LABELS[label].lower()}"
    return collection.write(store, name, sides, source.notes, left_out)


def build(
    store: Store,
    real: str | None = None,
    fake: tuple[str, ...] = (),
    train_rows: int | None = None,
    test_rows: int | None = None,
    seed: int = 0,
    validation_fraction: float = 0.2,
    skip_rejected: bool = False,
) -> dataset.Manifest:
    """Assemble a dataset version from collections; a label without any is read from the resolved source.

    Args:
        real, fake: collections' URLs.
        train_rows, test_rows: totals over both labels, balanced over label and class. By default all rows, but of a
            label that is read from the source no more than there are of the other in collections.
        validation_fraction: share of the train side that becomes the validation split; 0 ≤ fraction < 1.

    Raises:
        DataNotFoundError: a collection or source is missing, or has too few rows.
        ImageRejectedError: an image was refused and `skip_rejected` is not set.
        StoreError: the store refuses a write; nothing that was complete before is touched.
    """
    if not 0 <= validation_fraction < 1:
        raise ConfigurationError(
            f"validation fraction {validation_fraction}: give a share from 0 up to, not including, 1"
        )
    wanted: dict[Side, int | None] = {"test": test_rows, "train": train_rows}  # in this order: test has first claim
    sides, notes, inputs = _inputs(real, fake, wanted, seed)
    left_out: Counter[str] = Counter()
    tables: dict[Side, pa.Table] = {}
    for side, rows in wanted.items():
        table = sides[side]
        if side == "train":  # a picture in both sides stays in test; told apart here so that counts come out as asked
            table = splits.without(table, tables["test"])
            left_out["also in test"] += sides[side].num_rows - table.num_rows
        if rows != 0 and (missing := set(LABELS) - {LABELS[label] for label in table["label"].unique().to_pylist()}):
            raise DataNotFoundError(
                f"no {' and no '.join(sorted(missing))} images for the {side} side; "
                f"give some, or build without that side: --{side}-rows 0"
            )
        chosen = splits.choose(table, rows, seed, side)
        tables[side], refused = collection.canonical(chosen, skip_rejected)
        left_out += refused
    train = splits.without(tables["train"], tables["test"])  # again: different files may have become the same picture
    left_out["also in test"] += tables["train"].num_rows - train.num_rows
    train, validation = splits.train_validation(splits.ordered(train, seed), validation_fraction, seed)
    parameters = {
        "seed": seed,
        "validation_fraction": validation_fraction,
        "train_rows": train_rows,
        "test_rows": test_rows,
        "inputs": inputs,
        "left_out": {reason: rows for reason, rows in sorted(left_out.items()) if rows},
    }
    written = dataset.write(
        store,
        {"train": train, "validation": validation, "test": splits.ordered(tables["test"], seed)},
        parameters,
        notes=notes,
    )
    pipeline_metrics.dataset(written.version, written.counts, written.generators)
    return written


def _inputs(
    real: str | None, fake: tuple[str, ...], rows: dict[Side, int | None], seed: int
) -> tuple[dict[Side, pa.Table], list[str], dict[str, list[str]]]:
    parts: dict[Side, list[pa.Table]] = {side: [] for side in SIDES}
    notes: list[str] = []
    inputs: dict[str, list[str]] = {}
    source = None
    given = {REAL: (real,) if real else (), FAKE: fake}
    collections = {label: [collection.read(url) for url in urls] for label, urls in given.items()}
    for label, urls in given.items():
        for url, (tables, said) in zip(urls, collections[label], strict=True):
            notes += said
            for side, table in tables.items():
                if set(table["label"].unique().to_pylist()) - {label}:
                    raise ConfigurationError(f"{url}: holds other labels than {LABELS[label]}")
                parts[side].append(table)
        if not urls:
            source = source or resolve()
            notes += source.notes
            for side in SIDES:
                total = rows[side]
                table = _read(source, side, label, None if total is None else -(-total // 2))
                if total is None and (others := collections[1 - label]):
                    table = _beside(table, sum(t[side].num_rows for t, _ in others if side in t), seed, side)
                parts[side].append(table)
        inputs[LABELS[label]] = [url.rstrip("/").rsplit("/", 1)[-1] for url in urls] or [source.name if source else ""]
    for side in SIDES:
        if not parts[side]:
            raise DataNotFoundError(f"none of the collections has {side} rows")
    return {side: pa.concat_tables(parts[side]) for side in SIDES}, list(dict.fromkeys(notes)), inputs


def _beside(table: pa.Table, rows: int, seed: int, side: Side) -> pa.Table:
    """At most so many rows, balanced over classes where there are enough of each."""
    if rows >= table.num_rows:
        return table
    try:
        return splits.choose(table, rows, seed, side) if rows else table.slice(0, 0)
    except DataNotFoundError:
        return splits.choose(table, None, seed, side).slice(0, rows)


def _read(source: Source, side: Side, label: int, rows: int | None) -> pa.Table:
    try:
        return source.read(side, label, rows)
    except DataNotFoundError as exc:
        if label == REAL:
            raise
        raise DataNotFoundError(f"{exc}; make some with `cifake generate` and pass --fake URL") from exc
