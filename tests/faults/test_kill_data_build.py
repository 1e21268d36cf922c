"""`cifake data build`, killed or interrupted at any point and run again, ends as if nothing had happened."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

CIFAKE = str(Path(sys.executable).with_name("cifake"))
BUILD = [CIFAKE, "data", "build", "--train-rows", "2000", "--test-rows", "400", "--json"]


@pytest.fixture(autouse=True)
def heard():
    """What a shell starts in the background ignores SIGINT, and so does all that it starts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def environment(image_source, home) -> dict[str, str]:
    return os.environ | {"CIFAKE_DATA": image_source, "CIFAKE_HOME": str(home)}


def build(environment: dict[str, str]) -> dict:
    done = subprocess.run(BUILD, env=environment, capture_output=True, text=True, timeout=120, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def stop_when(moment: Callable[[list[str]], bool], how: signal.Signals, environment: dict[str, str]) -> tuple[int, str]:
    """Start a build, send the signal as soon as the store's files are as wanted; its exit code and stderr."""
    store = Path(environment["CIFAKE_HOME"]) / "store"
    running = subprocess.Popen(BUILD, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while running.poll() is None and time.monotonic() < deadline:
        if moment([path.name for path in store.rglob("*") if path.is_file()]):
            running.send_signal(how)
            break
        threading.Event().wait(0.002)
    _, said = running.communicate(timeout=60)
    return running.returncode, said


MOMENTS = {
    "the first shard is being written": lambda names: any(n.startswith("train-") for n in names),
    "the first shard is done": lambda names: any(n.startswith("train-") and n.endswith(".parquet") for n in names),
    "the last shard is being written": lambda names: any(n.startswith("test-") for n in names),
}


@pytest.fixture(scope="module")
def undisturbed(image_source, tmp_path_factory) -> dict[str, bytes]:
    home = tmp_path_factory.mktemp("undisturbed")
    build(os.environ | {"CIFAKE_DATA": image_source, "CIFAKE_HOME": str(home)})
    return contents(home / "store")


def test_killed_builds_run_again_to_the_same_bytes_and_leave_nothing_behind(environment, home, undisturbed):
    codes = [stop_when(moment, signal.SIGKILL, environment)[0] for moment in MOMENTS.values()]
    assert codes[0] == -signal.SIGKILL
    assert not [name for name in contents(home / "store") if name.endswith("manifest.json")] or 0 in codes
    build(environment)
    assert contents(home / "store") == undisturbed


@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_build_says_so_and_runs_again_to_the_same_bytes(environment, home, undisturbed, how, code):
    returned, said = stop_when(MOMENTS["the first shard is being written"], how, environment)
    assert returned == code
    assert "Traceback" not in said
    if how == signal.SIGINT:
        assert "interrupted; nothing half-done was kept, run it again to go on" in said
    assert not [name for name in contents(home / "store") if name.endswith("manifest.json")]
    build(environment)
    assert contents(home / "store") == undisturbed
