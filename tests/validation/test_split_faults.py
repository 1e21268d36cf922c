"""Each fault of the splits, alone in otherwise clean data, is caught by its expectation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cifake_core.images import codec

Rows = dict[str, list[dict[str, Any]]]


def _copies_in_test(rows: Rows) -> Rows:
    return {**rows, "test": rows["test"] + rows["train"][:1]}


def _copies_inside(share: float) -> Callable[[Rows], Rows]:
    return lambda rows: {**rows, "train": rows["train"] + rows["train"][: int(share * len(rows["train"]))]}


def _moved(share: float) -> Callable[[Rows], Rows]:
    """Pictures of train, moved by a pixel and encoded again, put into test."""

    def fault(rows: Rows) -> Rows:
        copies = []
        for row in rows["train"][: int(share * len(rows["test"]))]:
            pixels = codec.decode(row["image"]["bytes"]).pixels
            copies.append({**row, "image": {**row["image"], "bytes": codec.encode(np.roll(pixels, 1, axis=1))}})
        return {**rows, "test": rows["test"] + copies}

    return fault


def _without(wanted: Callable[[dict[str, Any]], bool], *splits: str) -> Callable[[Rows], Rows]:
    return lambda rows: {
        split: [row for number, row in enumerate(part) if split not in splits or number < 20 or not wanted(row)]
        for split, part in rows.items()
    }


def _new_generator(**every: int) -> Callable[[Rows], Rows]:
    """`every` second, third … row of a split, if FAKE, is by another generator."""
    return lambda rows: {
        split: [
            {**row, "generator": "newer"}
            if split in every and row["label"] == 0 and number % every[split] == 0
            else row
            for number, row in enumerate(part)
        ]
        for split, part in rows.items()
    }


FAULTS: dict[str, tuple[str, Callable[[Rows], Rows]]] = {
    "an image in train and test": ("splits.no_image_in_two_splits", _copies_in_test),
    "a twelfth of train twice": ("splits.exact_duplicates_bounded", _copies_inside(0.08)),
    "one in fifty of train twice": ("splits.exact_duplicates_rare", _copies_inside(0.02)),
    "a tenth of test moved from train": ("splits.near_duplicates_bounded", _moved(0.1)),
    "a thirtieth of test moved from train": ("splits.near_duplicates_rare", _moved(0.03)),
    "no validation": ("splits.no_split_empty", lambda rows: {k: v for k, v in rows.items() if k != "validation"}),
    "little validation": ("splits.validation_share", _without(lambda row: True, "validation")),
    "few REAL in test": ("splits.labels_balanced", _without(lambda row: row["label"] == 1, "test")),
    "a class lost": ("balance.classes_within_half", _without(lambda row: row["class"] == "cat", "train")),
    "fewer of a class": (
        "balance.classes_even",
        _without(lambda row: row["class"] == "cat" and row["image"]["bytes"][-3] % 3 == 0, "train"),
    ),
    "a generator in train alone": ("splits.generators_everywhere", _new_generator(train=20)),
    "another mix of generators": ("splits.generators_alike", _new_generator(train=2, validation=20, test=20)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_split_fault_is_caught_by_its_expectation(clean, write, run, caught, fault):
    name, spoil = FAULTS[fault]
    assert name in caught(run(write(spoil(clean())), name.split(".")[0]))
