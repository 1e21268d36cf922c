"""Draw shards: requests in, one Parquet file of canonical rows out. Safe to kill at any point.

Each batch of a shard is kept in the store as a part, so that a run that starts again goes on after the last part;
a finished shard is written whole and its parts are removed.
"""

from __future__ import annotations

import logging
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from cifake_core import pipeline_metrics
from cifake_core.errors import CifakeError, DatasetError
from cifake_core.generation import generators
from cifake_core.generation.generators import Backend, DeviceMemoryError, Generator, Request
from cifake_core.generation.plan import Plan, Shard
from cifake_core.images import codec, records
from cifake_core.settings import FAKE, LABELS
from cifake_core.storage import Store

log = logging.getLogger(__name__)

MOST_REDRAWS = 20
_SEEDS = 1 << 63


class ShardResult(BaseModel, frozen=True):
    """What a run of one shard did. Rates and memory are of this run, without loading the model.

    Attributes:
        drawn: images drawn by this run, `resumed` those found from an earlier one; a finished shard has drawn none.
        redraws: flagged images thrown away; `halvings`: how often memory ran out and the batch was halved.
        peak_memory: bytes, of the device, or of the process on a CPU.
    """

    model_config = ConfigDict(extra="forbid")

    shard: str
    rows: int
    drawn: int = 0
    resumed: int = 0
    redraws: int = 0
    halvings: int = 0
    seconds: float = 0.0
    images_per_second: float = 0.0
    batch: int = 0
    device: str = ""
    peak_memory: int = 0


def is_done(store: Store, plan: Plan, shard: Shard) -> bool:
    """Is the shard's file there?"""
    return store.exists(f"{plan.folder}/{shard.name}.parquet")


def run_shard(
    store: Store,
    plan: Plan,
    shard: Shard,
    open_backend: Callable[[], Backend],
    batch: int | None = None,
    on_batch: Callable[[int], Any] = lambda rows: None,
) -> ShardResult:
    """Draw one shard, or finish it, or do nothing when its file is there.

    Args:
        open_backend: gives the loaded generator; only called when there is something to draw.
        batch: images at once; the back end's own by default. Halved while the device runs out of memory.
        on_batch: told the rows that each batch, or the find of earlier ones, added.

    Raises:
        CifakeError: the generator or one image alone does not fit the device, or an image stays flagged after many
            seeds.
        StoreError: the store refuses a write; parts written so far are found by the next run.
    """
    parts_folder = f"{plan.folder}/parts/{shard.name}"
    if is_done(store, plan, shard):
        store.delete(parts_folder)  # of a run that was killed before it could
        on_batch(shard.rows)
        return ShardResult(shard=shard.name, rows=shard.rows)
    entry = generators.named(plan.generator)
    tables = _parts(store, parts_folder)
    resumed = done = sum(table.num_rows for table in tables)
    if done:
        on_batch(done)
    with generators.must_fit(plan.generator):
        backend = open_backend()
    size = batch or backend.batch
    halvings = redraws = 0
    requests = plan.requests(shard)
    begun = time.monotonic()
    while done < shard.rows:
        todo = requests[done : done + size]
        try:
            drawn = _draw(backend, todo)
        except DeviceMemoryError as exc:
            if size == 1:
                raise CifakeError(f"{plan.generator}: not even one image fits the memory of {backend.device}") from exc
            size, halvings = size // 2, halvings + 1
            log.warning("out of memory on %s; going on with %d images at once", backend.device, size)
            continue
        rows = [_row(plan, entry, shard, *image) for image in drawn]
        table = records.make_table(rows)
        store.write(f"{parts_folder}/{done:06d}.parquet", records.to_parquet(table))
        tables.append(table)
        redraws += sum(row["safety_redraws"] for row in rows)
        done += len(todo)
        on_batch(len(todo))
        rate = (done - resumed) / max(time.monotonic() - begun, 1e-9)
        pipeline_metrics.shard(plan.generator, shard.name, done, shard.rows, rate)
    seconds = time.monotonic() - begun
    store.write(f"{plan.folder}/{shard.name}.parquet", records.to_parquet(pa.concat_tables(tables).combine_chunks()))
    store.delete(parts_folder)
    return ShardResult(
        shard=shard.name,
        rows=shard.rows,
        drawn=shard.rows - resumed,
        resumed=resumed,
        redraws=redraws,
        halvings=halvings,
        seconds=round(seconds, 3),
        images_per_second=round((shard.rows - resumed) / seconds, 2) if seconds else 0.0,
        batch=size,
        device=backend.device,
        peak_memory=peak_memory(backend.device),
    )


def peak_memory(device: str) -> int:
    """Most memory used so far, in bytes: of the device, or of this process on a CPU."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _parts(store: Store, folder: str) -> list[pa.Table]:
    """Parts in order, up to the first gap or damaged one."""
    tables: list[pa.Table] = []
    for name in store.list(folder):
        if int(name.split(".")[0]) != sum(table.num_rows for table in tables):
            break
        try:
            tables.append(records.from_parquet(store.read(f"{folder}/{name}"), name))
        except DatasetError as exc:
            log.warning("%s; drawing it again", exc)
            break
    return tables


def _draw(backend: Backend, requests: Sequence[Request]) -> list[tuple[Request, np.ndarray, int]]:
    """Each request as it was finally drawn, its pixels, and how many flagged images it cost."""
    out: dict[int, tuple[Request, np.ndarray, int]] = {}
    todo = dict(enumerate(requests))
    for redraws in range(MOST_REDRAWS + 1):
        for (index, request), pixels in zip(todo.items(), backend.draw(list(todo.values())), strict=True):
            if pixels is not None:
                out[index] = (request, pixels, redraws)
        todo = {i: replace(r, seed=(r.seed + 1) % _SEEDS) for i, r in todo.items() if i not in out}
        if not todo:
            return [out[index] for index in range(len(requests))]
    stubborn = next(iter(todo.values()))
    asked = stubborn.prompt or stubborn.object_class
    raise CifakeError(f"the safety checker flagged {MOST_REDRAWS + 1} images in a row for {asked!r}; change the prompt")


def _row(
    plan: Plan, entry: Generator, shard: Shard, request: Request, pixels: np.ndarray, redraws: int
) -> dict[str, Any]:
    small = codec.resize(pixels)
    return {
        "image": {
            "bytes": codec.encode(small),
            "path": f"{shard.side}/{LABELS[FAKE]}/{plan.generator}/{request.seed:016x}.jpg",
        },
        "label": FAKE,
        "class": shard.object_class,
        "source": "generated",
        "generator": plan.generator,
        "model_revision": plan.model_revision,
        "prompt": request.prompt,
        "seed": request.seed,
        "steps": entry.steps,
        "scheduler": entry.scheduler,
        "guidance": entry.guidance,
        "resize_filter": None if small is pixels else codec.RESIZE_FILTER,
        "encoder": codec.ENCODER,
        "safety_redraws": redraws,
    }
