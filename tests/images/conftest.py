from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest

from cifake_core.images import codec, records
from cifake_core.settings import CLASSES

MakeTable = Callable[..., pa.Table]


@pytest.fixture
def make_table(rng: np.random.Generator) -> MakeTable:
    """`make_table(count, classes=CLASSES)`: canonical rows of noise, labels and classes in turn."""

    def make(count: int, classes: tuple[str, ...] = CLASSES, **columns: object) -> pa.Table:
        rows = [
            {
                "image": {
                    "bytes": codec.encode(rng.integers(0, 256, (codec.SIZE, codec.SIZE, 3), dtype=np.uint8)),
                    "path": f"{number:04d}.jpg",
                },
                "label": number % 2,
                "class": classes[number // 2 % len(classes)],
                "source": "test",
                "generator": None if number % 2 else "noise",
            }
            | columns
            for number in range(count)
        ]
        return records.make_table(rows)

    return make
