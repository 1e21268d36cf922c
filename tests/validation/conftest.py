from __future__ import annotations

import functools
import hashlib
import io
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cifake_core.images import dataset, records
from cifake_core.settings import LABELS
from cifake_core.storage import Store
from cifake_core.validation import gate, suites
from cifake_core.validation.result import ValidationResult

Rows = dict[str, list[dict[str, Any]]]
"""Split → rows, as a fault may change them."""


@pytest.fixture(scope="session")
def clean(
    make_dataset: Callable[..., dataset.Manifest], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Rows]:
    """`clean(seed=0)`: 600 rows of a dataset version as `cifake data build` makes it; a fresh copy each time."""
    store = Store(tmp_path_factory.mktemp("clean").as_uri())
    made: dict[int, Rows] = {}

    def rows(seed: int = 0) -> Rows:
        if seed not in made:
            manifest = make_dataset(store, train_rows=480, test_rows=120, seed=seed)
            made[seed] = {split: dataset.read(store, manifest, split).to_pylist() for split in dataset.SPLITS}
        return {split: [{**row, "image": dict(row["image"])} for row in part] for split, part in made[seed].items()}

    return rows


@pytest.fixture(scope="session")
def write_version() -> Callable[..., dataset.Manifest]:
    """`write_version(store, rows)`: a dataset version of any rows, also of those that `data build` would refuse."""

    def version(
        store: Store, rows: Rows, reshape: Callable[[pa.Table], pa.Table] = lambda table: table
    ) -> dataset.Manifest:
        files, shards = {}, []
        for split, part in rows.items():
            buffer = io.BytesIO()
            pq.write_table(reshape(pa.Table.from_pylist(part, schema=records.SCHEMA)), buffer)
            digest = hashlib.sha256(buffer.getvalue()).hexdigest()
            shards.append(
                dataset.Shard(name=f"{split}-00000-of-00001.parquet", split=split, rows=len(part), sha256=digest)
            )
            files[shards[-1].name] = buffer.getvalue()
        everything = [row for part in rows.values() for row in part]
        manifest = dataset.Manifest(
            version=hashlib.sha256(b"".join(files.values())).hexdigest()[:16],
            rows=len(everything),
            counts={s: dict(Counter(LABELS[r["label"]] for r in p if r["label"] in (0, 1))) for s, p in rows.items()},
            generators={s: dict(Counter(r["generator"] for r in p if r["generator"])) for s, p in rows.items()},
            sources=dict(Counter(row["source"] for row in everything if row["source"])),
            parameters={},
            shards=shards,
        )
        for name, data in files.items():
            store.write(f"datasets/{manifest.version}/{name}", data)
        store.write(f"datasets/{manifest.version}/manifest.json", manifest.model_dump_json().encode())
        return manifest

    return version


@pytest.fixture
def write(store: Store, write_version: Callable[..., dataset.Manifest]) -> Callable[..., dataset.Manifest]:
    """`write(rows)`: as `write_version`, in this test's store."""
    return functools.partial(write_version, store)


@pytest.fixture
def run(store: Store, tmp_path: Path) -> Callable[..., ValidationResult]:
    """`run(manifest, "images")`: the gate with the named suites of the project, by default all."""

    def validate(manifest: dataset.Manifest, *names: str, **options: Any) -> ValidationResult:
        folder = tmp_path / "suites"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for file in suites.folder().glob("*.json"):
            if not names or file.stem in names:
                shutil.copy(file, folder)
        return gate.validate(store, manifest.version, expectations=folder, **options)

    return validate


@pytest.fixture
def caught() -> Callable[[ValidationResult], set[str]]:
    """`caught(result)`: every expectation that failed, those whose rows were set aside included."""
    return lambda result: {f.expectation for f in [*result.failed, *result.warnings]} | set(result.quarantined)


@pytest.fixture
def rows_caught() -> Callable[[ValidationResult], dict[str, set[int]]]:
    """`rows_caught(result)`: expectation → rows of the version that a report names as examples."""

    def named(result: ValidationResult) -> dict[str, set[int]]:
        failures = [*result.failed, *result.warnings]
        found = {f.expectation: [re.search(r"\brow=(\d+)", example) for example in f.examples] for f in failures}
        return {name: {int(match[1]) for match in matches if match} for name, matches in found.items()}

    return named
