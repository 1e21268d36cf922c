"""Train against a generator whose images get past the detector: measure, add part of them, and measure again.

The other part is held apart: it joins the test split, so that the gate judges a candidate on it too. In both splits
the new images take the place of as many of the commonest generator's, so that the labels stay balanced.
"""

from __future__ import annotations

import hashlib
import io
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from cifake_core.bundle import Detector
from cifake_core.errors import ConfigurationError, DataNotFoundError
from cifake_core.images import codec, dataset, records
from cifake_core.images.sources import reading
from cifake_core.monitoring.intervals import wilson
from cifake_core.registry.artifacts import fetch, resolve
from cifake_core.settings import FAKE
from cifake_core.storage import Store

UNKNOWN = "unknown"  # the object class of images that nobody has told it of
UNKNOWN_SHARE = 0.4  # of a split's FAKE rows, the most that may be of unknown class
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


class Passed(BaseModel, frozen=True):
    """How many of a generator's images a model version took for REAL, with the share's 95 % interval (Wilson)."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    model_version: int
    images: int
    accepted: int
    share: float
    lower: float
    upper: float


def prepare(
    images: str,
    generator: str,
    base: str | None = None,
    version: str = "champion",
    train_share: float = 0.5,
    train_rows: int | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """A dataset version with part of a generator's images in its train split and the others in its test split.

    Args:
        images: a folder of images, or a Parquet file with a column `image`.
        generator: its name in the lineage.
        base: the dataset version to add to; by default the one that `version` was trained on.
        train_share: share of the images to train on; `train_rows` says how many instead.

    Returns:
        dataset_version, base, generator, train_rows, test_rows, unused (images that the test split has no room for),
        before (`Passed` of `version` on the held-out part).

    Raises:
        DataNotFoundError, ConfigurationError, DatasetError, RegistryError, ModelError, ImageRejectedError.
    """
    store, model = Store(), resolve(version)
    manifest = dataset.load(store, base or model.dataset_version)
    if any(generator in rows for rows in manifest.generators.values()):
        raise ConfigurationError(
            f"dataset version {manifest.version} holds images of {generator!r} already; "
            f"give these a name of their own, such as {generator + '-2'!r}"
        )
    unique = {hashlib.sha256(data).hexdigest(): data for data in (codec.normalise(raw).jpeg for raw in _read(images))}
    splits = {split: dataset.read(store, manifest, split) for split in dataset.SPLITS}
    known = {digest for table in splits.values() for digest in records.content_hashes(table)}
    order = sorted(unique.keys() - known, key=lambda digest: hashlib.sha256(f"{seed} {digest}".encode()).digest())
    count = round(train_share * len(order)) if train_rows is None else train_rows
    if not 0 < count < len(order):
        raise ConfigurationError(
            f"{images}: {len(order)} images that are new; {count} to train on leaves none for the other part"
        )
    room = {split: _room(table) for split, table in splits.items()}
    if count > room["train"] or not room["test"]:
        raise ConfigurationError(
            f"dataset version {manifest.version} has room for {room['train']} images to train on and {room['test']} "
            f"to test with, not for {count}; give fewer, or a larger --dataset"
        )
    parts = {"train": order[:count], "test": order[count : count + room["test"]]}
    rng = np.random.default_rng(seed)
    for split, digests in parts.items():
        table, rows = splits[split], [_row(digest, unique[digest], generator) for digest in digests]  # type: ignore[index]
        stay = np.delete(np.arange(table.num_rows), _leaving(table, len(rows), rng))
        table = pa.concat_tables([table.take(stay), records.make_table(rows)])
        splits[split] = table.take(rng.permutation(table.num_rows))  # type: ignore[index]
    parameters = {**manifest.parameters, "hardened_from": manifest.version, "generator": generator, "seed": seed}
    made = dataset.write(store, splits, parameters, notes=manifest.notes, parent=manifest.version)
    held = np.stack([codec.decode(unique[digest]).pixels for digest in parts["test"]])
    return {
        "dataset_version": made.version,
        "base": manifest.version,
        "generator": generator,
        "train_rows": count,
        "test_rows": len(held),
        "unused": len(order) - count - len(held),
        "before": passed(model.version, Detector(fetch(model)), held).model_dump(),
    }


def report(dataset_version: str, generator: str, before: str, after: str) -> dict[str, Any]:
    """Two model versions on a hardened dataset version's test split: the generator's images, and all the others.

    Returns:
        generator, before, after (`Passed`), old_accuracy_before, old_accuracy_after, old_accuracy_change.

    Raises:
        DatasetError: no such version, or none of the generator's images in its test split.
    """
    store = Store()
    manifest = dataset.load(store, dataset_version)
    images, labels = dataset.arrays(store, manifest, "test")
    new = np.array([each == generator for each in dataset.read(store, manifest, "test")["generator"].to_pylist()])
    if not new.any():
        raise ConfigurationError(f"dataset version {dataset_version} holds no test images of {generator!r}")
    found: dict[str, Any] = {"generator": generator}
    for name, reference in (("before", before), ("after", after)):
        model = resolve(reference)
        detector = Detector(fetch(model))
        right = (detector.probability_real(images[~new]) >= detector.info.threshold) == labels[~new]
        found[name] = passed(model.version, detector, images[new]).model_dump()
        found[f"old_accuracy_{name}"] = float(right.mean())
    found["old_accuracy_change"] = found["old_accuracy_after"] - found["old_accuracy_before"]
    return found


def passed(version: int, detector: Detector, images: np.ndarray) -> Passed:
    """How many images (N, 32, 32, 3), all FAKE, a detector takes for REAL."""
    accepted = int((detector.probability_real(images) >= detector.info.threshold).sum())
    lower, upper = wilson(accepted, len(images))
    return Passed(
        model_version=version,
        images=len(images),
        accepted=accepted,
        share=accepted / len(images),
        lower=lower,
        upper=upper,
    )


def _read(images: str) -> list[bytes]:
    with reading(images):
        fs, root = fsspec.core.url_to_fs(images)
        if root.endswith(".parquet") and fs.isfile(root):
            table = pq.read_table(io.BytesIO(fs.cat_file(root)))
            if "image" not in table.column_names:
                raise DataNotFoundError(f"{images}: no column `image`; columns are {', '.join(table.column_names)}")
            rows = table["image"].to_pylist()
            return [(row["bytes"] if isinstance(row, dict) else row) or b"" for row in rows]
        files = sorted(f for f in fs.find(root) if f.lower().endswith(SUFFIXES)) if fs.isdir(root) else []
        if not files:
            known = ", ".join(SUFFIXES)
            raise DataNotFoundError(f"{images}: neither a Parquet file nor a folder with images ({known})")
        return [fs.cat_file(file) for file in files]


def _column(table: pa.Table, name: str) -> np.ndarray:
    return np.array([str(each) for each in table[name].to_pylist()])


def _commonest(table: pa.Table) -> np.ndarray:
    """Where a split's FAKE rows of their commonest generator are."""
    generators, fake = _column(table, "generator"), table["label"].to_numpy() == FAKE
    names, rows = np.unique(generators[fake], return_counts=True)
    return np.flatnonzero(fake & (generators == names[rows.argmax()])) if len(names) else np.array([], int)


def _room(table: pa.Table) -> int:
    """How many new images of unknown class a split can take in place of old ones."""
    fake = table["label"].to_numpy() == FAKE
    unknown = int((_column(table, "class")[fake] == UNKNOWN).sum())
    return max(0, min(len(_commonest(table)) // 2, int(UNKNOWN_SHARE * fake.sum()) - unknown))


def _leaving(table: pa.Table, count: int, rng: np.random.Generator) -> np.ndarray:
    """So many rows of the commonest generator, drawn from whichever object class has most left."""
    rows = rng.permutation(_commonest(table))
    classes = _column(table, "class")[rows]
    left = np.empty(len(rows), int)
    for name in np.unique(classes):
        where = np.flatnonzero(classes == name)
        left[where] = np.arange(len(where), 0, -1)
    return rows[np.argsort(-left, kind="stable")[:count]]


def _row(digest: str, data: bytes, generator: str) -> dict[str, Any]:
    return {
        "image": {"bytes": data, "path": f"{generator}-{digest[:16]}.jpg"},
        "label": FAKE,
        "class": UNKNOWN,
        "source": "harden",
        "generator": generator,
        "encoder": codec.ENCODER,
    }
