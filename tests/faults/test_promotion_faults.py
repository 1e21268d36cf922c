"""The fault table of promotion: after each fault, what is served, what is recorded, and that nothing is lost."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from cifake_core.errors import CheckFailedError, RegistryError
from cifake_core.mlflow_client import client
from cifake_core.registry import history
from cifake_core.registry.artifacts import resolve
from cifake_core.registry.promotion import promote
from cifake_core.registry.verify import verify
from cifake_core.settings import MODEL_NAME, settings
from services.detector.champion import Champion
from tests.proxy import proxy
from tests.registry import voting
from tests.registry.conftest import Field
from tests.registry.voting import share
from tests.servers import MlflowServer

CIFAKE = str(Path(sys.executable).with_name("cifake"))
MakeField = Callable[..., Field]


def use(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
    settings.cache_clear()


def look(service: Champion) -> tuple[int | None, str]:
    """Let a service look at the alias; which version it serves then, and what keeps it from another."""
    service.check()
    return service.current.version.version if service.current else None, service.problem or ""


def cached() -> list[str]:
    return sorted(p.name for p in (settings().cache / "models").iterdir() if p.is_dir())


def aliases() -> dict[str, int]:
    return {alias: int(v) for alias, v in client().get_registered_model(MODEL_NAME).aliases.items()}


def artefacts(version: int) -> Path:
    run = client().get_run(resolve(str(version)).run_id)
    return Path(urlsplit(run.info.artifact_uri).path) / "detector"


@pytest.fixture
def serving(field: MakeField) -> tuple[Field, Champion]:
    """Version 1 is champion and served; version 2 is better and waits."""
    f = field(share(0.8), share(0.95))
    promote("1")
    service = Champion()
    assert look(service) == (1, "")
    return f, service


def move_by_hand(version: int) -> None:
    client().set_registered_model_alias(MODEL_NAME, "champion", str(version))


def test_mlflow_killed_during_a_download_and_before_a_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mlflow_database: Path
) -> None:
    bundles = [voting.write_bundle(tmp_path / f"b{model}", model, "0" * 16) for model in (0, 1)]
    folder = tmp_path / "server"
    folder.mkdir()
    shutil.copy(mlflow_database, folder)
    server = MlflowServer.start(folder)
    try:
        for bundle in bundles:
            server.register(bundle)
        with proxy(server.url) as between:
            use(between.url, monkeypatch)
            monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
            move_by_hand(1)
            service = Champion()
            assert look(service) == (1, "")
            kept = cached()
            move_by_hand(2)
            between.strike = lambda _, path, __: "runs/get" in path and not server.stop()
            version, problem = look(service)
            assert version == 1
            assert problem.startswith(f"cannot fetch the bundle of {MODEL_NAME} version 2")
            assert cached() == kept  # no half a bundle

            version, problem = look(Champion())  # a service that starts now
            assert version == 1
            assert "cannot find" in problem

            between.strike = lambda *_: False
            server = MlflowServer.start(folder, urlsplit(server.url).port)
            assert look(service) == (2, "")
    finally:
        server.stop()


def test_mlflow_lost_between_the_alias_moves(serving: tuple[Field, Champion], monkeypatch: pytest.MonkeyPatch) -> None:
    f, service = serving
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with proxy(f.server.url) as between:
        lost = threading.Event()

        def strike(method: str, path: str, body: bytes) -> bool:
            if method == "POST" and path.endswith("/alias") and json.loads(body)["alias"] == "champion":
                lost.set()
            return lost.is_set()

        between.strike = strike
        use(between.url, monkeypatch)
        with pytest.raises(RegistryError, match="cannot move the aliases for decision 2"):
            promote("2")
        version, problem = look(service)
        assert version == 1
        assert problem
        assert history.undone(f.store) == [2]
        lost.clear()
        between.strike = lambda *_: False
        assert promote("2")["promoted"]
        assert look(service) == (2, "")
        assert aliases() == {"champion": 2, "previous": 1}
        assert verify()["problems"] == []


FAULTS = {
    "corrupted artefact": (lambda folder: (folder / "score.onnx").write_bytes(b"noise"), "SHA-256 is not the recorded"),
    "missing artefact": (lambda folder: (folder / "explain.onnx").unlink(), "missing"),
    "other bundle": (
        lambda folder: (folder / "detector.json").write_text((folder / "detector.json").read_text() + "\n"),
        "not the one recorded at registration",
    ),
    "no graphs": (lambda folder: (folder / "detector.json").unlink(), "no artefact detector/detector.json"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_spoilt_version_is_neither_served_nor_promoted(serving: tuple[Field, Champion], fault: str) -> None:
    f, service = serving
    spoil, said = FAULTS[fault]
    spoil(artefacts(2))
    kept = cached()
    move_by_hand(2)
    version, problem = look(service)
    assert version == 1
    assert said in problem
    assert cached() == kept
    with pytest.raises(CheckFailedError, match="version 2 is champion without gate evidence"):
        verify()
    move_by_hand(1)
    assert look(service) == (1, "")
    answer = promote("2")
    assert not answer["promoted"]
    assert said in answer["reasons"][0]
    assert history.read(f.store, 2).failed == ["bundle"]
    assert verify()["problems"] == []


@pytest.mark.parametrize("changed", ["parity", "explain"])
def test_a_version_whose_graphs_load_but_disagree_is_not_served(serving: tuple[Field, Champion], changed: str) -> None:
    f, service = serving
    move_by_hand(f.add(1, changed, changed=changed))
    version, problem = look(service)
    assert version == 1
    assert "parity examples" in problem or "explanation graph" in problem


def test_a_full_disk_keeps_the_model_that_is_served(
    serving: tuple[Field, Champion], request: pytest.FixtureRequest
) -> None:
    f, service = serving
    large = f.add(1, "large", parity_rows=100)
    small_disk = request.getfixturevalue("small_disk")
    cache = settings().cache / "models"
    cache.rename(cache.with_name("before"))
    cache.symlink_to(small_disk)
    move_by_hand(large)
    version, problem = look(service)
    assert version == 1
    assert "cannot keep a model bundle" in problem
    assert "free some space" in problem
    assert cached() == []
    cache.unlink()
    cache.with_name("before").rename(cache)
    assert look(service) == (large, "")


def test_a_deleted_alias_changes_nothing_that_is_served(serving: tuple[Field, Champion]) -> None:
    f, service = serving
    client().delete_registered_model_alias(MODEL_NAME, "champion")
    version, problem = look(service)
    assert version == 1
    assert "no alias 'champion'" in problem
    with pytest.raises(CheckFailedError, match="its alias is gone; the last recorded one is version 1"):
        verify()
    assert promote("2")["promoted"]
    assert look(service) == (2, "")
    assert history.read(f.store, 2).champion == 1  # judged against the recorded champion


def test_of_two_promotions_at_once_one_wins_and_the_other_is_told(
    serving: tuple[Field, Champion], policy: Path
) -> None:
    f, service = serving
    versions = (2, f.add(1, "twin", gain=60))
    reports = {v: f"gates/{MODEL_NAME}-{v}/against-1/gate.html" for v in versions}

    def run(version: int, server: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"MLFLOW_TRACKING_URI": server}
        command = [CIFAKE, "promote", "--version", str(version), "--policy", str(policy), "--json"]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180)

    def hold_until_both_are_judged(mine: str) -> Callable[[str, str, bytes], bool]:
        def strike(*_: object) -> bool:
            deadline = time.monotonic() + 90
            while f.store.exists(mine) and not all(map(f.store.exists, reports.values())):
                assert time.monotonic() < deadline
                threading.Event().wait(0.02)
            return False

        return strike

    done: dict[int, subprocess.CompletedProcess[str]] = {}
    with proxy(f.server.url) as one, proxy(f.server.url) as other:
        threads = []
        for version, between in zip(versions, (one, other), strict=True):
            between.strike = hold_until_both_are_judged(reports[version])
            job = threading.Thread(target=lambda v=version, url=between.url: done.__setitem__(v, run(v, url)))
            job.start()
            threads.append(job)
        for job in threads:
            job.join()

    by_code = {process.returncode: version for version, process in done.items()}
    assert set(by_code) == {0, 1}, [process.stderr[-500:] for process in done.values()]
    winner, loser = by_code[0], by_code[1]
    assert "run it again to be judged against that one" in done[loser].stderr
    assert json.loads(done[loser].stdout.splitlines()[-1])["promoted"] is False
    assert aliases() == {"champion": winner, "previous": 1}
    assert [history.read(f.store, n).version for n in history.numbers(f.store)] == [1, winner]
    assert look(service) == (winner, "")
    assert verify()["problems"] == []
