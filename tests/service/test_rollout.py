"""`cifake rollout` against real services: it waits for all replicas, compares answers, and can go back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from cifake_core.client.rollout import replicas, rollout, served
from cifake_core.errors import CheckFailedError, ServiceError
from cifake_core.registry import history
from cifake_core.registry.artifacts import fetch, resolve
from cifake_core.settings import settings
from cifake_core.storage import Store
from tests.service.conftest import Process, Registry, wait_for


@pytest.fixture
def following(
    registry: Registry, two_workers: Process, home: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Process]:
    """A service of two workers, as this process's CIFAKE_SERVICE_URL; back at version 1 afterwards."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", registry.server.url)
    monkeypatch.setenv("CIFAKE_SERVICE_URL", two_workers.url)
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    settings.cache_clear()
    wait_for(lambda: served(two_workers.url) == {1}, 30)
    yield two_workers
    registry.promote(1)
    wait_for(lambda: served(two_workers.url) == {1}, 30)


def test_a_promotion_reaches_every_worker_and_answers_as_the_bundle_does(
    registry: Registry, following: Process
) -> None:
    second = registry.register(21)
    registry.promote(second)
    result = rollout(timeout=30)
    assert (result["version"], result["replicas"], result["golden"]) == (second, 1, 8)
    assert result["worst"] < 1e-5
    assert served(following.url) == {second}


@pytest.mark.parametrize("kept", [True, False])
def test_a_version_that_cannot_be_served_is_rolled_back(registry: Registry, following: Process, kept: bool) -> None:
    spoilt = registry.register(22 + 10 * kept)
    if kept:  # whole in this machine's cache, as after its judgement; the service has to download it
        fetch(resolve(str(spoilt)))
    run = registry.api.get_run(resolve(str(spoilt)).run_id)
    Path(run.info.artifact_uri.removeprefix("file://"), "detector", "score.onnx").write_bytes(b"gone bad")
    registry.api.set_registered_model_alias("cifake-detector", "previous", "1")
    registry.promote(spoilt)
    with pytest.raises(CheckFailedError, match=r"rolled back to version 1$") as caught:
        rollout(timeout=2, roll_back=True)
    assert caught.value.result["rolled_back"] is True
    assert resolve("champion").version == 1
    last = history.last_move(Store())
    assert last
    said = f"version {spoilt} is not served everywhere" if kept else "SHA-256 is not the recorded one"
    assert last[1].reason.startswith("rollout failed: ")
    assert said in last[1].reason


def test_a_champion_that_changed_meanwhile_is_not_rolled_back(registry: Registry, following: Process) -> None:
    other = registry.register(23)
    with pytest.raises(CheckFailedError, match="not rolled back: version 1 is champion by now"):
        rollout(str(other), timeout=0, roll_back=True)
    assert resolve("champion").version == 1


def test_an_answer_that_differs_from_the_bundles_is_found(
    registry: Registry, following: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service answers with version 1; the bundle it is compared with is another model's."""
    other = fetch(resolve(str(registry.register(24))))
    monkeypatch.setattr("cifake_core.client.rollout.fetch", lambda _: other)
    with pytest.raises(CheckFailedError, match=r"a golden image is answered .* away from what version 1 gives"):
        rollout(timeout=5)


def test_every_address_of_a_name_is_a_replica() -> None:
    assert replicas("http://127.0.0.1:3000") == ["http://127.0.0.1:3000"]
    assert replicas("https://detector.example/base") == ["https://detector.example/base"]
    with pytest.raises(ServiceError, match="does not resolve"):
        replicas("http://no-such-name.invalid:3000")


def test_a_service_that_is_down_is_named(registry: Registry, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", registry.server.url)
    monkeypatch.setenv("CIFAKE_SERVICE_URL", "http://127.0.0.1:9")
    settings.cache_clear()
    with pytest.raises(CheckFailedError, match=r"127\.0\.0\.1:9: no answer") as caught:
        rollout("1", timeout=0)
    assert json.dumps(caught.value.result)
