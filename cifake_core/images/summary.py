"""What a dataset version holds, in numbers and in one picture."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cifake_core.images import codec, dataset, records
from cifake_core.settings import CLASSES, LABELS
from cifake_core.storage import Store

GRID_COLUMNS = 10
GRID_SCALE = 2
_GAP = 4  # pixels between the labels' blocks, before scaling


def summarise(store: Store, manifest: dataset.Manifest) -> dict[str, Any]:
    """Rows per split, label and class, repeated images, generators and sources.

    Raises:
        DatasetError: a shard is damaged.
    """
    classes: dict[str, dict[str, dict[str, int]]] = {}
    duplicates = {}
    for split in manifest.counts:
        table = dataset.read(store, manifest, split)  # type: ignore[arg-type]
        counts = Counter(zip(table["label"].to_pylist(), table["class"].to_pylist(), strict=True))
        classes[split] = {
            label: {name: n for (k, name), n in sorted(counts.items()) if LABELS[k] == label} for label in LABELS
        }
        duplicates[split] = table.num_rows - len(set(records.content_hashes(table)))
    return {
        "version": manifest.version,
        "rows": manifest.rows,
        "classes": classes,
        "duplicates": duplicates,
        "generators": sorted(set().union(*manifest.generators.values())),
        "sources": manifest.sources,
        "parameters": manifest.parameters,
        "notes": manifest.notes,
    }


def write_grid(store: Store, manifest: dataset.Manifest, path: str) -> None:
    """Write a PNG of test rows: a row per class and ten columns, FAKE in the left block, REAL in the right.

    Raises:
        DatasetError: a shard is damaged.
        StoreError: the file cannot be written.
    """
    split: Any = next(s for s in ("test", "validation", "train") if s in manifest.counts)
    table = dataset.read(store, manifest, split)
    images, labels, names = records.image_bytes(table), table["label"].to_pylist(), table["class"].to_pylist()
    kinds = sorted(set(names), key=lambda n: (CLASSES.index(n) if n in CLASSES else len(CLASSES), n))
    block = GRID_COLUMNS * codec.SIZE
    canvas = np.full((len(kinds) * codec.SIZE, 2 * block + _GAP, 3), 255, np.uint8)
    filled: Counter[tuple[int, str]] = Counter()
    for data, label, name in zip(images, labels, names, strict=True):
        column = filled[label, name]
        if column < GRID_COLUMNS:
            filled[label, name] += 1
            top, left = kinds.index(name) * codec.SIZE, label * (block + _GAP) + column * codec.SIZE
            canvas[top : top + codec.SIZE, left : left + codec.SIZE] = codec.resize(codec.decode(data).pixels)
    picture = Image.fromarray(canvas)
    picture = picture.resize((picture.width * GRID_SCALE, picture.height * GRID_SCALE), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    target = Path(path).absolute()
    Store(target.parent.as_uri()).write(target.name, buffer.getvalue())
