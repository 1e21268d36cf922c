"""The images a detector is judged on: a dataset version's test split, and tiles by generators it never saw."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from cifake_core.errors import DatasetError, ImageRejectedError
from cifake_core.evaluation.slices import Slice, apply, slices
from cifake_core.settings import FAKE, settings
from cifake_core.storage import Store
from cifake_core.verb import progress

Score = Callable[[np.ndarray], np.ndarray]  # images (N, 32, 32, 3) uint8 → P(REAL) (N,)
WHOLE = "all"
UNSEEN = "unseen:"


@dataclass(frozen=True)
class Tiles:
    """FAKE images (N, 32, 32, 3) uint8 of generators that training never saw, with the generator and family of each."""

    images: np.ndarray
    generators: np.ndarray
    families: np.ndarray


@dataclass(frozen=True)
class TestSet:
    """Images (N, 32, 32, 3) uint8, labels (N,) int, classes and generators (N,); the version they come from."""

    __test__ = False  # not pytest's

    dataset_version: str
    images: np.ndarray
    labels: np.ndarray
    classes: list[str]
    generators: list[str | None]
    notes: list[str] = field(default_factory=list)
    tiles: Tiles | None = None
    _damaged: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    def pixels(self, part: Slice) -> np.ndarray:
        """A slice's images; damaged ones are kept, for the next model to be scored on."""
        kept = self._damaged.get(part.name)
        if kept is None or len(kept) != len(part.rows):
            kept = self._damaged[part.name] = apply(self.images[part.rows], part.steps)
        return kept


@dataclass(frozen=True)
class Scored:
    """One slice's labels and scores, (K,) each."""

    labels: np.ndarray
    scores: np.ndarray
    threshold: float = 0.5

    @property
    def correct(self) -> np.ndarray:
        """Which of the images are answered rightly, (K,) bool."""
        return np.equal(self.scores >= self.threshold, self.labels)


def load(store: Store, version: str, unseen: str | None = None) -> TestSet:
    """A dataset version's test split and, from `unseen` or CIFAKE_UNSEEN, tiles of unseen generators.

    Raises:
        DatasetError: no such version, no test rows, or tiles in another layout.
        StoreError: a file is unreachable.
    """
    from cifake_core.images import dataset

    manifest = dataset.load(store, version)
    if not manifest.counts.get("test"):
        raise DatasetError(f"dataset version {version} has no test split; build one with --test-rows above 0")
    images, labels = dataset.arrays(store, manifest, "test")
    table = dataset.read(store, manifest, "test")
    unseen = unseen or settings().unseen
    return TestSet(
        dataset_version=version,
        images=images,
        labels=labels,
        classes=table["class"].to_pylist(),
        generators=table["generator"].to_pylist(),
        notes=manifest.notes,
        tiles=load_tiles(unseen) if unseen else None,
    )


def load_tiles(url: str) -> Tiles:
    """Tiles from a Parquet file (URL or path) with columns `image` (bytes), `generator` and `family`, all FAKE.

    Each passes the codec first: otherwise a lossless tile would be told by what it lacks.

    Raises:
        DatasetError: not such a file, or a tile is no image.
        StoreError: unreachable.
    """
    import io
    from pathlib import Path

    import pyarrow as pa
    import pyarrow.parquet as pq

    from cifake_core.images import codec, records

    folder, _, name = url.rpartition("/")
    if "://" not in url:
        folder, name = Path(url).absolute().parent.as_uri(), Path(url).name
    try:
        table = pq.read_table(io.BytesIO(Store(folder).read(name)))
        encoded = table["image"].cast(records.SCHEMA.field("image").type).combine_chunks().field("bytes").to_pylist()
        generators, families = (np.array(table[column].to_pylist(), dtype=object) for column in ("generator", "family"))
    except (pa.ArrowException, OSError, KeyError) as exc:
        raise DatasetError(f"{url}: expected a Parquet file with columns image, generator and family") from exc
    if None in generators or None in families:
        raise DatasetError(f"{url}: a tile has no generator or no family")
    images = []
    for row, data in enumerate(progress(encoded, "reading tiles", unit="image")):
        try:
            images.append(codec.normalise(data or b"").pixels)
        except ImageRejectedError as exc:
            raise DatasetError(f"{url}: row {row}: {exc}") from exc
    if not images:
        raise DatasetError(f"{url}: no tiles in it")
    return Tiles(np.stack(images), generators, families)


def score_slices(score: Score, testset: TestSet, threshold: float = 0.5, damage_rows: int = 2000) -> dict[str, Scored]:
    """Labels and scores per slice: `all`, then `slices.slices`, then unseen generators; every model sees equal pixels.

    Unseen generators are named `unseen:FAMILY`, and each alone `unseen:FAMILY/GENERATOR`.
    """
    whole = Scored(np.asarray(testset.labels).astype(int), score(testset.images), threshold)
    out = {WHOLE: whole}
    named = list(slices(testset.classes, testset.generators, damage_rows))
    for part in progress(named, "scoring slices", unit="slice"):
        damaged = score(testset.pixels(part)) if part.steps else whole.scores[part.rows]
        out[part.name] = Scored(whole.labels[part.rows], damaged, threshold)
    if tiles := testset.tiles:
        scores = score(tiles.images)
        singles = np.array([f"{f}/{g}" for f, g in zip(tiles.families, tiles.generators, strict=True)], dtype=object)
        for names in (tiles.families, singles):
            for name in sorted(set(names)):
                rows = names == name
                out[f"{UNSEEN}{name}"] = Scored(np.full(rows.sum(), FAKE), scores[rows], threshold)
    return out
