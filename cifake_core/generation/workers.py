"""A whole plan, or some of its shards, by one or several processes of this machine."""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import cache
from multiprocessing.connection import wait

from pydantic import BaseModel, ConfigDict
from tqdm import tqdm

from cifake_core.errors import CifakeError, ModelError
from cifake_core.generation import generators
from cifake_core.generation.generators import Backend
from cifake_core.generation.plan import Plan, Shard
from cifake_core.generation.run import ShardResult, run_shard
from cifake_core.storage import Store

log = logging.getLogger(__name__)


class PlanResult(BaseModel, frozen=True):
    """What a run over shards did. `rows_url` is the collection; it is whole when every shard of the plan is done."""

    model_config = ConfigDict(extra="forbid")

    rows_url: str
    rows: int
    generator: str
    model_revision: str
    seconds: float
    images_per_second: float
    shards: list[ShardResult]


def run_plan(
    store: Store, plan: Plan, shards: Sequence[Shard] | None = None, workers: int = 1, batch: int | None = None
) -> PlanResult:
    """Draw shards of a plan, all by default; the rows are the same for any number of workers.

    Raises:
        ModelError: the generator's weights, or the real images it draws from, are not those of the plan.
        CifakeError: as `run_shard`, or a worker was killed; shards that were finished stay.
    """
    here = generators.revision(generators.named(plan.generator))
    if here != plan.model_revision:
        raise ModelError(
            f"plan {plan.name} is for revision {plan.model_revision} of {plan.generator}, here is {here} "
            "(other weights, or other real images to draw from); make a new plan"
        )
    shards = plan.shards if shards is None else list(shards)
    rows = sum(shard.rows for shard in shards)
    results: list[ShardResult] = []
    begun = time.monotonic()
    with tqdm(total=rows, desc=plan.generator, unit="image", disable=not sys.stderr.isatty(), leave=False) as bar:
        for result in (_here if workers == 1 else _pool)(store, plan, shards, workers, batch, bar):
            results.append(result)
            done, seconds = sum(r.rows for r in results), time.monotonic() - begun
            if bar.disable:
                left = seconds * (rows - done) / done
                log.info("%s: %d of %d images, about %.0f s left", result.shard, done, rows, left)
    seconds = time.monotonic() - begun
    drawn = sum(result.drawn for result in results)
    return PlanResult(
        rows_url=store.url_of(plan.folder),
        rows=rows,
        generator=plan.generator,
        model_revision=plan.model_revision,
        seconds=round(seconds, 3),
        images_per_second=round(drawn / seconds, 2),
        shards=sorted(results, key=lambda result: result.shard),
    )


def _here(
    store: Store, plan: Plan, shards: Sequence[Shard], workers: int, batch: int | None, bar: tqdm
) -> Iterator[ShardResult]:
    backend = cache(lambda: generators.open_backend(generators.named(plan.generator)))
    for shard in shards:
        yield run_shard(store, plan, shard, backend, batch, bar.update)


def _pool(
    store: Store, plan: Plan, shards: Sequence[Shard], workers: int, batch: int | None, bar: tqdm
) -> Iterator[ShardResult]:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_end_with_parent) as pool:
        try:
            futures = [pool.submit(_work, store.url, plan, shard, batch) for shard in shards]
            for future in as_completed(futures):
                result = future.result()
                bar.update(result.rows)
                yield result
        except BrokenProcessPool as exc:
            raise CifakeError(
                f"{plan.generator}: a worker process was killed, most likely for want of memory; what is drawn is "
                "kept: run it again with fewer --workers, or a smaller --batch"
            ) from exc
        finally:
            pool.shutdown(cancel_futures=True)


def _work(store_url: str, plan: Plan, shard: Shard, batch: int | None) -> ShardResult:
    return run_shard(Store(store_url), plan, shard, lambda: _one_thread_backend(plan.generator), batch)


@cache
def _one_thread_backend(name: str) -> Backend:
    return generators.open_backend(generators.named(name), threads=1)


def _end_with_parent() -> None:
    """A worker whose parent was killed must not draw on: someone may already be running the plan again."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
