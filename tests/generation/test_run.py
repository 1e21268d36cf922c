"""Shards are drawn once, the same for any number of workers, and a run may be killed at any point."""

import os
import signal
import subprocess
import threading
import time
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from cifake_core.errors import CifakeError, ModelError
from cifake_core.generation import generators, plan
from cifake_core.generation.generators import DeviceMemoryError
from cifake_core.generation.run import run_shard
from cifake_core.generation.workers import run_plan
from cifake_core.images import codec, records
from cifake_core.settings import FAKE
from tests.generation.conftest import CIFAKE, contents, last_json
from tests.waiting import wait_for

ORDER = ("--train-rows", 30, "--test-rows", 10, "--seed", 5, "--json")


@cache
def embedded():
    return generators.open_backend(generators.named("embedded"), threads=1)


class Limited:
    """The embedded generator on a device that has room for so many images at once."""

    device = "cpu"
    batch = 20

    def __init__(self, room):
        self.room, self.asked = room, []

    def draw(self, requests):
        self.asked.append(len(requests))
        if len(requests) > self.room:
            raise DeviceMemoryError("out of memory")
        return embedded().draw(requests)


class Flagging:
    """The embedded generator behind a checker that flags what it is told to."""

    device = "cpu"
    batch = 8

    def __init__(self, flags):
        self.flags = flags

    def draw(self, requests):
        return [
            None if self.flags(r.seed) else image for r, image in zip(requests, embedded().draw(requests), strict=True)
        ]


def rows_of(store, made, shard):
    return records.from_parquet(store.read(f"{made.folder}/{shard.name}.parquet")).to_pylist()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The store's files after ORDER was carried out by one process, in the generator's own batches."""
    home = tmp_path_factory.mktemp("undisturbed")
    command = [CIFAKE, "generate", *map(str, ORDER)]
    done = subprocess.run(
        command, env=os.environ | {"CIFAKE_HOME": str(home)}, capture_output=True, text=True, timeout=300
    )
    assert last_json(done)["rows"] == 40
    return contents(home / "store")


def test_rows_say_where_they_come_from_and_are_canonical_images(undisturbed):
    [name] = [name for name in undisturbed if name.endswith("/train-00003.parquet")]
    rows = records.from_parquet(undisturbed[name]).to_pylist()
    assert len(rows) == 3
    assert len({row["image"]["bytes"] for row in rows}) == 3
    entry = generators.named("embedded")
    for row in rows:
        assert codec.is_canonical(row["image"]["bytes"])
        assert (row["label"], row["class"], row["source"]) == (FAKE, "cat", "generated")
        assert (row["generator"], row["model_revision"]) == ("embedded", generators.revision(entry))
        assert (row["steps"], row["scheduler"]) == (entry.steps, entry.scheduler)
        assert row["guidance"] == pytest.approx(entry.guidance)
        assert (row["encoder"], row["prompt"], row["safety_redraws"]) == (codec.ENCODER, None, 0)
        assert row["image"]["path"] == f"train/FAKE/embedded/{row['seed']:016x}.jpg"


def test_four_workers_and_another_batch_give_the_same_bytes(run, home, undisturbed):
    done = last_json(run(*ORDER, "--workers", 4, "--batch", 2))
    assert done["rows"] == 40
    assert contents(home / "store") == undisturbed


def test_shards_drawn_one_by_one_give_the_same_bytes_and_are_skipped_when_done(store, home, undisturbed):
    made = plan.make("embedded", 30, 10, seed=5)
    plan.save(store, made)
    for shard in reversed(made.shards):
        run_shard(store, made, shard, embedded)
    assert contents(home / "store") == undisturbed

    def unwanted():
        raise AssertionError("the generator was loaded for a finished shard")

    again = run_shard(store, made, made.shards[0], unwanted)
    assert (again.rows, again.drawn, again.images_per_second) == (3, 0, 0.0)


def test_parts_that_a_killed_run_left_beside_a_finished_shard_are_removed(store):
    made = plan.make("embedded", 10, 0)
    shard = made.shards[0]
    run_shard(store, made, shard, embedded)
    part = f"{made.folder}/parts/{shard.name}/000000.parquet"
    store.write(part, store.read(f"{made.folder}/{shard.name}.parquet"))
    run_shard(store, made, shard, embedded)
    assert not store.exists(part)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_killed_inside_a_shard_goes_on_and_ends_in_the_same_bytes(run, home, undisturbed, workers):
    command = [CIFAKE, "generate", *map(str, ORDER), "--batch", "1", "--workers", str(workers)]
    environment = os.environ | {"CIFAKE_HOME": str(home)}
    store = home / "store"
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(store.glob("generation/*/parts/*/000001.parquet")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        threading.Event().wait(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    assert list(store.glob("generation/*/parts/*/000000.parquet"))
    done = last_json(run(*ORDER, "--batch", 3))
    assert done["rows"] == 40
    assert sum(shard["resumed"] for shard in done["shards"]) >= 1
    assert contents(store) == undisturbed


def test_a_killed_worker_is_one_line_of_advice(home):
    command = [CIFAKE, "generate", "--train-rows", "2000", "--test-rows", "0", "--batch", "1", "--workers", "2"]
    environment = os.environ | {"CIFAKE_HOME": str(home)}
    process = subprocess.Popen(command, env=environment, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    wait_for(lambda: list(home.glob("store/generation/*/parts/*/*.parquet")), 120)
    children = " ".join(each.read_text() for each in Path(f"/proc/{process.pid}/task").glob("*/children")).split()
    worker = next(child for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes())
    os.kill(int(worker), signal.SIGKILL)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 2
    assert said.splitlines()[-1].endswith("run it again with fewer --workers, or a smaller --batch")
    assert "Traceback" not in said


def test_a_damaged_part_is_drawn_again(store, undisturbed):
    made = plan.make("embedded", 30, 10, seed=5)
    plan.save(store, made)
    shard = made.shards[0]

    batches = []

    def stop_after_two(rows):
        batches.append(rows)
        if len(batches) == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        run_shard(store, made, shard, embedded, batch=1, on_batch=stop_after_two)
    part = f"{made.folder}/parts/{shard.name}/000001.parquet"
    store.write(part, store.read(part)[:-9])
    result = run_shard(store, made, shard, embedded)
    assert (result.resumed, result.drawn) == (1, 2)
    name = f"{made.folder}/{shard.name}.parquet"
    assert store.read(name) == undisturbed[name]


def test_out_of_memory_halves_the_batch_and_changes_no_image(store):
    made = plan.make("embedded", 200, 0)
    shard = made.shards[1]
    device = Limited(6)
    result = run_shard(store, made, shard, lambda: device)
    assert (result.halvings, result.batch, result.drawn) == (2, 5, 20)
    assert device.asked == [20, 10, 5, 5, 5, 5]
    images = [codec.encode(codec.resize(image)) for image in embedded().draw(made.requests(shard))]
    assert [row["image"]["bytes"] for row in rows_of(store, made, shard)] == images


def test_a_device_without_room_for_one_image_is_an_error_that_says_so(store):
    made = plan.make("embedded", 20, 0)
    with pytest.raises(CifakeError, match="embedded: not even one image fits the memory of cpu"):
        run_shard(store, made, made.shards[0], lambda: Limited(0))


def test_a_generator_that_does_not_fit_the_device_is_an_error_that_says_so(store):
    def too_large():
        raise DeviceMemoryError("out of memory\nin an allocator")

    made = plan.make("embedded", 20, 0)
    with pytest.raises(CifakeError, match=r"^embedded does not fit the memory here \(out of memory\); free some"):
        run_shard(store, made, made.shards[0], too_large)


def test_a_flagged_image_is_drawn_from_the_next_seed_and_counted(store):
    made = plan.make("embedded", 80, 0)
    shard = made.shards[2]
    asked = made.requests(shard)
    flagged = {asked[1].seed, asked[4].seed, asked[4].seed + 1}
    result = run_shard(store, made, shard, lambda: Flagging(flagged.__contains__))
    rows = rows_of(store, made, shard)
    assert result.redraws == 3
    assert [row["safety_redraws"] for row in rows] == [0, 1, 0, 0, 2, 0, 0, 0]
    assert [row["seed"] - request.seed for row, request in zip(rows, asked, strict=True)] == [0, 1, 0, 0, 2, 0, 0, 0]
    for row in rows:
        assert np.ptp(codec.decode(row["image"]["bytes"]).pixels) > 0


def test_a_prompt_that_is_always_flagged_ends_with_advice(store):
    made = plan.make("embedded", 10, 0)
    with pytest.raises(CifakeError, match="flagged 21 images in a row for 'airplane'; change the prompt"):
        run_shard(store, made, made.shards[0], lambda: Flagging(lambda seed: True))
    assert store.list(made.folder) == []


def test_a_plan_for_other_weights_is_refused(store):
    made = plan.make("embedded", 10, 0).model_copy(update={"model_revision": "0123456789ab"})
    with pytest.raises(ModelError, match=r"revision 0123456789ab of embedded, here is .*; make a new plan"):
        run_plan(store, made)


def test_generated_and_real_images_become_one_dataset_version(run, home, image_source, undisturbed):
    done = last_json(run(*ORDER, "--workers", 2))
    command = [CIFAKE, "data", "build", "--fake", done["rows_url"], "--train-rows", "60", "--test-rows", "20", "--json"]
    environment = os.environ | {"CIFAKE_HOME": str(home), "CIFAKE_DATA": image_source}
    versions = set()
    for _ in range(2):
        built = last_json(subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300))
        versions.add(built["dataset_version"])
    assert len(versions) == 1
