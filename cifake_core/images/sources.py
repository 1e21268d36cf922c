"""Where images come from: `resolve()` looks in CIFAKE_DATA, then the local cache, then the Hugging Face hub,
and falls back on the offline sample.

Layouts read from a folder or URL: Parquet as on the hub (`train.parquet`, or `train-*.parquet` at the root or one
folder down) of CIFAKE (`image`, `label`) or CIFAR-10 (`img`, `label`: all REAL); and Kaggle's folders
`train/REAL/*.jpg`, `train/FAKE`, `test/REAL`, `test/FAKE`.
"""

from __future__ import annotations

import json
import logging
import re
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Literal

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cifake_core.errors import ConfigurationError, DataNotFoundError
from cifake_core.images import records
from cifake_core.settings import CLASSES, FAKE, LABELS, REAL, settings
from cifake_core.verb import progress

log = logging.getLogger(__name__)

Side = Literal["train", "test"]
SIDES: tuple[Side, ...] = ("train", "test")
CIFAKE_GENERATOR = "stable-diffusion-v1-4"
HUB = {"cifake": "dragonintelligence/CIFAKE-image-dataset", "cifar10": "uoft-cs/cifar10"}
HUB_TIMEOUT_SECONDS = 2.0

# Kaggle's names: `1000 (7).jpg` is class 7 of 10 in CIFAR-10's order, `1000.jpg` class 1.
_CIFAKE_NAME = r"(?:^|/)\d+(?: \((?P<number>[2-9]|10)\))?\.(?:jpg|jpeg|png)$"
_IMAGE_FILE = re.compile(r"\.(jpe?g|png|webp)$", re.IGNORECASE)


class Source(ABC):
    """A place that holds images as they were published; nothing is decoded or re-encoded here.

    Attributes:
        name: `cifake`, `cifar10`, `folder` or `offline-sample`.
        location: the folder, URL or package it reads.
        notes: what whoever uses its rows must know.
    """

    name: str
    location: str
    notes: tuple[str, ...] = ()

    @abstractmethod
    def read(self, side: Side, label: int | None = None, rows: int | None = None) -> pa.Table:
        """The rows of one side in `records.SCHEMA`, images still as published.

        Args:
            label: only FAKE (0) or REAL (1); both by default.
            rows: how many the caller will use; a source that makes its images makes this many.

        Raises:
            DataNotFoundError: the source holds no such rows.
        """


def resolve() -> Source:
    """The first source there is: CIFAKE_DATA, the local cache, the hub, the offline sample.

    Raises:
        DataNotFoundError: CIFAKE_DATA is set but holds no layout known here; it is never passed over in silence.
    """
    from cifake_core.images.sample import OfflineSample

    if location := settings().data:
        return open_source(location)
    cache = settings().cache / "sources"
    for name in HUB:
        if (cache / name).is_dir():
            log.info("reading %s from the cache, %s", name, cache / name)
            return open_source(str(cache / name))
    for name, repository in HUB.items():
        if _download(repository, cache / name):
            return open_source(str(cache / name))
    sample = OfflineSample()
    log.warning("%s", sample.notes[0])
    return sample


def open_source(location: str) -> Source:
    """The source in a folder or URL, its layout told by its files.

    Raises:
        DataNotFoundError: nothing there, or no known layout.
        ConfigurationError: not a URL that fsspec knows.
    """
    try:
        fs, root = fsspec.core.url_to_fs(location)
    except (ValueError, ImportError) as exc:
        raise ConfigurationError(
            f"CIFAKE_DATA: {location}: not a folder or URL this installation reads ({exc})"
        ) from exc
    try:
        files = {side: _parquet_files(fs, root, side) for side in SIDES}
        if all(files.values()):
            return ParquetSource(location, fs, files)
        folders = {side: _label_folders(fs, root, side) for side in SIDES}
        if all(folders.values()):
            return FolderSource(location, fs, root, folders)
        exists = fs.exists(root)
    except Exception as exc:  # every file system raises its own kind for "unreachable" and "not allowed"
        raise DataNotFoundError(f"{location}: cannot be read ({exc})") from exc
    if not exists:
        raise DataNotFoundError(f"{location}: no such folder; point CIFAKE_DATA at CIFAKE or CIFAR-10, or unset it")
    raise DataNotFoundError(
        f"{location}: holds neither train and test Parquet files (train.parquet or data/train-*.parquet) "
        "nor Kaggle's folders (train/REAL, train/FAKE, test/REAL, test/FAKE)"
    )


def _parquet_files(fs: Any, root: str, side: Side) -> list[str]:
    if fs.exists(f"{root}/{side}.parquet"):
        return [f"{root}/{side}.parquet"]
    return sorted(fs.glob(f"{root}/{side}-*.parquet")) or sorted(fs.glob(f"{root}/*/{side}-*.parquet"))


def _label_folders(fs: Any, root: str, side: Side) -> dict[int, str]:
    if not fs.isdir(f"{root}/{side}"):
        return {}
    names = {p.rstrip("/").rsplit("/", 1)[-1]: p.rstrip("/") for p in fs.ls(f"{root}/{side}", detail=False)}
    return {LABELS.index(name.upper()): path for name, path in names.items() if name.upper() in LABELS}


def _download(repository: str, folder: Path) -> bool:
    """Fetch a hub dataset's Parquet files into a cache folder, whole or not at all; False when the hub is away."""
    try:
        from huggingface_hub import HfApi, snapshot_download
    except ImportError:
        log.info("huggingface-hub is not installed; not looking there")
        return False
    partial = folder.with_name(f"{folder.name}.partial")  # kept when interrupted: the next try goes on from it
    try:
        HfApi().dataset_info(repository, timeout=HUB_TIMEOUT_SECONDS)
        snapshot_download(repository, repo_type="dataset", local_dir=partial, allow_patterns="*.parquet")
    except Exception as exc:  # the hub's library lets its HTTP client's errors through, whose base has changed before
        log.info("%s is out of reach on the Hugging Face hub (%s)", repository, str(exc).splitlines()[0])
        return False
    partial.rename(folder)
    return True


class ParquetSource(Source):
    """CIFAKE or CIFAR-10 in the hub's Parquet layout."""

    def __init__(self, location: str, fs: Any, files: dict[Side, list[str]]) -> None:
        self.location, self._fs, self._files = location, fs, files
        columns = set(self._schema("train").names)
        self._image = "img" if "img" in columns else "image"
        if not {self._image, "label"} <= columns:
            raise DataNotFoundError(f"{location}: columns are {sorted(columns)}, expected image (or img) and label")
        self._names = _label_names(self._schema("train"))
        is_cifar = self._image == "img" or (self._names is not None and len(self._names) == len(CLASSES))
        self.name = "cifar10" if is_cifar else "cifake"

    def _schema(self, side: Side) -> pa.Schema:
        with self._fs.open(self._files[side][0], "rb") as file:
            return pq.read_schema(file)

    def read(self, side: Side, label: int | None = None, rows: int | None = None) -> pa.Table:  # noqa: D102
        parts = []
        for path in self._files[side]:
            try:
                with self._fs.open(path, "rb") as file:
                    parts.append(pq.read_table(file, columns=[self._image, "label"]))
            except (pa.ArrowInvalid, OSError) as exc:
                raise DataNotFoundError(f"{path}: not a readable Parquet file ({exc})") from exc
        raw = pa.concat_tables(parts).combine_chunks()
        data = pc.struct_field(raw[self._image], "bytes")
        paths = pc.struct_field(raw[self._image], "path")
        table = self._cifar10(data, raw["label"], side) if self.name == "cifar10" else self._cifake(data, paths, raw)
        return _only(table, label, f"{self.location}: {side}")

    def _cifake(self, data: pa.ChunkedArray, paths: pa.ChunkedArray, raw: pa.Table) -> pa.Table:
        labels = raw["label"]
        if self._names is not None:  # a mirror may count its labels the other way round
            index = pa.array([LABELS.index(name.upper()) for name in self._names], pa.int64())
            labels = pc.take(index, labels)
        return _table(data, paths, labels, _classes(paths), "cifake")

    def _cifar10(self, data: pa.ChunkedArray, numbers: pa.ChunkedArray, side: Side) -> pa.Table:
        classes = pc.take(pa.array(self._names or CLASSES), numbers)
        rows = pa.array([f"{number:05d}.png" for number in range(len(numbers))])
        paths = pc.binary_join_element_wise(pa.scalar(side), classes, rows, "/")
        return _table(data, paths, pa.repeat(pa.scalar(REAL, pa.int64()), len(numbers)), classes, "cifar10")


def _label_names(schema: pa.Schema) -> list[str] | None:
    features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    names = features.get("label", {}).get("names")
    return list(names) if names else None


class FolderSource(Source):
    """Kaggle's layout: `{train,test}/{REAL,FAKE}/*.jpg`; one of the labels may be missing."""

    def __init__(self, location: str, fs: Any, root: str, folders: dict[Side, dict[int, str]]) -> None:
        self.location, self._fs, self._root, self._folders = location, fs, root.rstrip("/"), folders
        self.name = "cifake"

    def read(self, side: Side, label: int | None = None, rows: int | None = None) -> pa.Table:  # noqa: D102
        files, labels = [], []
        for value, folder in sorted(self._folders[side].items()):
            if label in (None, value):
                found = sorted(p for p in self._fs.ls(folder, detail=False) if _IMAGE_FILE.search(p))
                files += found
                labels += [value] * len(found)
        data = []
        for start in progress(range(0, len(files), 1000), f"reading {side} images", unit="thousand"):
            part = files[start : start + 1000]
            read = self._fs.cat(part) if len(part) > 1 else {part[0]: self._fs.cat_file(part[0])}
            data += [read[path] for path in part]
        paths = pa.array([path.removeprefix(self._root).lstrip("/") for path in files], pa.string())
        table = _table(pa.array(data, pa.binary()), paths, pa.array(labels, pa.int64()), _classes(paths), "cifake")
        return _only(table, label, f"{self.location}/{side}")


def _classes(paths: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Object classes by CIFAKE's file names; null where the name is another kind."""
    number = pc.struct_field(pc.extract_regex(paths, _CIFAKE_NAME), "number")
    index = pc.cast(pc.if_else(pc.equal(number, ""), "1", number), pa.int64())
    return pc.take(pa.array(CLASSES), pc.subtract(index, 1))


def _table(data: Any, paths: Any, labels: Any, classes: Any, source: str) -> pa.Table:
    """Published columns and their lineage as a table in `records.SCHEMA`."""
    flat = [c.combine_chunks() if isinstance(c, pa.ChunkedArray) else c for c in (data, paths, labels, classes)]
    data, paths, labels, classes = flat
    fake = pc.equal(labels, FAKE)
    known = pc.is_valid(classes) if source == "cifake" else pa.repeat(True, len(labels))
    generator = pc.if_else(known, CIFAKE_GENERATOR, "unknown")
    origin = pc.if_else(known, pc.if_else(fake, "cifake", "cifar10"), "folder")
    values = {
        "image": pa.StructArray.from_arrays([data, paths], ["bytes", "path"]),
        "label": labels,
        "class": pc.fill_null(classes, "unknown"),
        "source": origin,
        "generator": pc.if_else(fake, generator, None),
    }
    return pa.table(
        [values[f.name].cast(f.type) if f.name in values else pa.nulls(len(labels), f.type) for f in records.SCHEMA],
        schema=records.SCHEMA,
    )


def _only(table: pa.Table, label: int | None, where: str) -> pa.Table:
    if label is not None:
        table = table.filter(pc.equal(table["label"], label))
    if not table.num_rows:
        raise DataNotFoundError(f"{where}: holds no {'' if label is None else LABELS[label] + ' '}images")
    return table
