"""Where images come from: `resolve()` looks in CIFAKE_DATA, then the local cache, then the Hugging Face hub,
and falls back on the offline sample.

Layouts read from a folder or URL: Parquet as on the hub (`train.parquet`, or `train-*.parquet` at the root or one
folder down) of CIFAKE (`image`, `label`) or CIFAR-10 (`img`, `label`: all REAL); and Kaggle's folders
`train/REAL/*.jpg`, `train/FAKE`, `test/REAL`, `test/FAKE`.
"""

from __future__ import annotations

import fcntl
import json
import logging
import re
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cifake_core.errors import CifakeError, ConfigurationError, DataNotFoundError, OutOfReachError
from cifake_core.images import records
from cifake_core.settings import CLASSES, FAKE, LABELS, REAL, settings
from cifake_core.verb import progress

log = logging.getLogger(__name__)

Side = Literal["train", "test"]
SIDES: tuple[Side, ...] = ("train", "test")
CIFAKE_GENERATOR = "stable-diffusion-v1-4"
HUB = {"cifake": "dragonintelligence/CIFAKE-image-dataset", "cifar10": "uoft-cs/cifar10"}
HUB_TIMEOUT_SECONDS = 2.0
PUBLISHED_ROWS = (100_000, 20_000)  # CIFAKE, train and test

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
    if found := _on_hub():
        _download(HUB[found], cache / found)
        return open_source(str(cache / found))
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
    with reading(location):
        files = {side: _parquet_files(fs, root, side) for side in SIDES}
        if all(files.values()):
            return ParquetSource(location, fs, files)
        folders = {side: _label_folders(fs, root, side) for side in SIDES}
        if all(folders.values()):
            return FolderSource(location, fs, root, folders)
        exists = fs.exists(root)
    if not exists:
        raise DataNotFoundError(f"{location}: no such folder; point CIFAKE_DATA at CIFAKE or CIFAR-10, or unset it")
    raise DataNotFoundError(
        f"{location}: holds neither train and test Parquet files (train.parquet or data/train-*.parquet) "
        "nor Kaggle's folders (train/REAL, train/FAKE, test/REAL, test/FAKE)"
    )


@contextmanager
def reading(location: str) -> Iterator[None]:
    """Turn what a file system raises into one line.

    Raises:
        DataNotFoundError: on this machine. OutOfReachError: elsewhere, where trying again may help.
    """
    try:
        yield
    except CifakeError:
        raise
    except Exception as exc:  # every file system raises its own kind for "unreachable" and "not allowed"
        kind = OutOfReachError if "://" in location and not isinstance(exc, FileNotFoundError) else DataNotFoundError
        raise kind(f"{location}: cannot be read ({exc})") from exc


def _parquet_files(fs: Any, root: str, side: Side) -> list[str]:
    if fs.exists(f"{root}/{side}.parquet"):
        return [f"{root}/{side}.parquet"]
    return sorted(fs.glob(f"{root}/{side}-*.parquet")) or sorted(fs.glob(f"{root}/*/{side}-*.parquet"))


def _label_folders(fs: Any, root: str, side: Side) -> dict[int, str]:
    if not fs.isdir(f"{root}/{side}"):
        return {}
    names = {p.rstrip("/").rsplit("/", 1)[-1]: p.rstrip("/") for p in fs.ls(f"{root}/{side}", detail=False)}
    return {LABELS.index(name.upper()): path for name, path in names.items() if name.upper() in LABELS}


def _on_hub() -> str | None:
    """The name of the first dataset the hub has; None, within a few seconds, when the hub is out of reach."""
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError:
        log.info("huggingface-hub is not installed; not looking there")
        return None
    for name, repository in HUB.items():
        try:
            HfApi().dataset_info(repository, timeout=HUB_TIMEOUT_SECONDS)
            return name
        except HfHubHTTPError as exc:
            log.info("the Hugging Face hub does not give out %s (%s)", repository, _first_line(exc))
        except Exception as exc:  # its HTTP client's own errors come through, and their base has changed before
            log.info("the Hugging Face hub is out of reach (%s)", _first_line(exc))
            return None
    return None


def _download(repository: str, folder: Path) -> None:
    """Fetch a hub dataset's Parquet files into a cache folder, whole or not at all."""
    from huggingface_hub import snapshot_download

    partial = folder.with_name(f"{folder.name}.partial")  # kept when interrupted: the next try goes on from it
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.is_dir():  # another process was first
            return
        try:
            snapshot_download(repository, repo_type="dataset", local_dir=partial, allow_patterns="*.parquet")
        except Exception as exc:
            raise OutOfReachError(
                f"{repository}: the download stopped ({_first_line(exc)}); run it again to go on, or set CIFAKE_DATA"
            ) from exc
        shutil.rmtree(partial / ".cache", ignore_errors=True)  # the hub library's own bookkeeping
        partial.rename(folder)


def _first_line(exc: Exception) -> str:
    return (str(exc) or type(exc).__name__).splitlines()[0]


def _size_note(train: int, test: int) -> tuple[str, ...]:
    if (train, test) == PUBLISHED_ROWS:
        return ()
    return (
        f"The source holds {train:,} + {test:,} images, CIFAKE as published {PUBLISHED_ROWS[0]:,} + "
        f"{PUBLISHED_ROWS[1]:,}: scores are not on the published split.",
    )


class ParquetSource(Source):
    """CIFAKE or CIFAR-10 in the hub's Parquet layout."""

    def __init__(self, location: str, fs: Any, files: dict[Side, list[str]]) -> None:
        self.location, self._fs, self._files = location, fs, files
        schema = self._metadata(files["train"][0]).schema.to_arrow_schema()
        self._image = "img" if "img" in schema.names else "image"
        if not {self._image, "label"} <= set(schema.names):
            raise DataNotFoundError(f"{location}: columns are {schema.names}, expected image (or img) and label")
        names = _label_names(schema)
        self.name = "cifar10" if self._image == "img" or (names and set(names) == set(CLASSES)) else "cifake"
        self._names = names or list(CLASSES if self.name == "cifar10" else LABELS)
        if self.name == "cifake":
            self._names = [name.upper() for name in self._names]  # a mirror may count its labels the other way round
            self.notes = _size_note(*(sum(self._metadata(f).num_rows for f in files[side]) for side in SIDES))
        known = CLASSES if self.name == "cifar10" else LABELS
        if unknown := set(self._names) - set(known):
            raise DataNotFoundError(f"{location}: label {sorted(unknown)[0]!r}; known are {', '.join(known)}")

    def _metadata(self, path: str) -> pq.FileMetaData:
        try:
            with self._fs.open(path, "rb") as file:
                return pq.read_metadata(file)
        except (pa.ArrowInvalid, OSError) as exc:
            raise DataNotFoundError(f"{path}: not a readable Parquet file ({exc})") from exc

    def read(self, side: Side, label: int | None = None, rows: int | None = None) -> pa.Table:  # noqa: D102
        where = f"{self.location}: {side}"
        with reading(where):
            raw = pa.concat_tables([self._columns(path) for path in self._files[side]]).combine_chunks()
            data, paths = (pc.struct_field(raw[self._image], part) for part in ("bytes", "path"))
            if not pc.all(pc.and_(pc.greater_equal(raw["label"], 0), pc.less(raw["label"], len(self._names)))).as_py():
                raise DataNotFoundError(f"{where}: a label is not one of 0 to {len(self._names) - 1}")
            names = pc.take(pa.array(self._names), raw["label"])
            if self.name == "cifake":
                labels = pc.cast(pc.equal(names, LABELS[REAL]), pa.int64())
                table = _table(data, paths, labels, _classes(paths))
            else:
                numbers = pa.array([f"{number:05d}.png" for number in range(raw.num_rows)])
                paths = pc.binary_join_element_wise(pa.scalar(side), names.combine_chunks(), numbers, "/")
                table = _table(data, paths, pa.repeat(pa.scalar(REAL, pa.int64()), raw.num_rows), names)
        return _only(table, label, where)

    def _columns(self, path: str) -> pa.Table:
        with self._fs.open(path, "rb") as file:
            return pq.read_table(file, columns=[self._image, "label"])


def _label_names(schema: pa.Schema) -> list[str] | None:
    features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    names = features.get("label", {}).get("names")
    return list(names) if names else None


class FolderSource(Source):
    """Kaggle's layout: `{train,test}/{REAL,FAKE}/*.jpg`; one of the labels may be missing."""

    name = "cifake"

    def __init__(self, location: str, fs: Any, root: str, folders: dict[Side, dict[int, str]]) -> None:
        self.location, self._fs, self._root = location, fs, root.rstrip("/")
        self._files = {
            side: [
                (label, path)
                for label, folder in sorted(folders[side].items())
                for path in sorted(fs.ls(folder, detail=False))
                if _IMAGE_FILE.search(path)
            ]
            for side in SIDES
        }
        self.notes = _size_note(*(len(self._files[side]) for side in SIDES))

    def read(self, side: Side, label: int | None = None, rows: int | None = None) -> pa.Table:  # noqa: D102
        where = f"{self.location}: {side}"
        wanted = [(value, path) for value, path in self._files[side] if label in (None, value)]
        data = []
        with reading(where):
            for start in progress(range(0, len(wanted), 1000), f"reading {side} images", unit="thousand"):
                part = [path for _, path in wanted[start : start + 1000]]
                content = self._fs.cat(part)
                data += [content[path] for path in part] if isinstance(content, dict) else [content]
        paths = pa.array([path.removeprefix(self._root).lstrip("/") for _, path in wanted], pa.string())
        labels = pa.array([value for value, _ in wanted], pa.int64())
        return _only(_table(pa.array(data, pa.binary()), paths, labels, _classes(paths)), label, where)


def _classes(paths: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Object classes by CIFAKE's file names; null where the name is another kind."""
    number = pc.struct_field(pc.extract_regex(paths, _CIFAKE_NAME), "number")
    index = pc.cast(pc.if_else(pc.equal(number, ""), "1", number), pa.int64())
    return pc.take(pa.array(CLASSES), pc.subtract(index, 1))


def _table(data: Any, paths: Any, labels: Any, classes: Any) -> pa.Table:
    """Published columns and their lineage as a table in `records.SCHEMA`; images of unknown class are not CIFAKE's."""
    columns = (c.combine_chunks() if isinstance(c, pa.ChunkedArray) else c for c in (data, paths, labels, classes))
    data, paths, labels, classes = columns
    fake, known = pc.equal(labels, FAKE), pc.is_valid(classes)
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
