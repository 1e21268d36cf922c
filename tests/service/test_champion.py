"""The service follows the registry's alias, and outlives the registry."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from cifake_core.bundle import FILE
from cifake_core.errors import ModelError, RegistryError
from cifake_core.registry.artifacts import ModelVersion, remember
from cifake_core.settings import settings
from services.detector import champion
from services.detector.champion import Champion
from tests.service.conftest import Process, Registry, metric, wait_for
from tests.tiny_bundle import write_tiny_bundle


def _version(service: Process) -> int:
    return int(service.get("/status").json()["model"]["version"])


@pytest.fixture(scope="module")
def follower(registry: Registry, start_service: Callable[..., Process]) -> Process:
    return start_service(registry.server.url)


@pytest.fixture
def following(registry: Registry, follower: Process) -> Iterator[Process]:
    """A service that follows the alias; both are back at version 1 afterwards."""
    yield follower
    registry.promote(1)
    wait_for(lambda: _version(follower) == 1 and not follower.get("/status").json()["problem"], 20)


def test_a_promotion_is_served_without_a_failed_or_mixed_answer(
    registry: Registry, following: Process, photo: bytes
) -> None:
    second = registry.register(7)
    scores: set[tuple[int, float]] = set()
    failures: list[str] = []
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            answer = following.post("/classify", content=photo)
            if answer.status_code != 200:
                failures.append(answer.text)
            else:
                scores.add((answer.json()["model"]["version"], answer.json()["probability_real"]))

    asking = [threading.Thread(target=ask) for _ in range(2)]
    for thread in asking:
        thread.start()
    wait_for(lambda: len(scores) == 1, 20)
    registry.promote(second)
    wait_for(lambda: len(scores) >= 2, 20)
    done.set()
    for thread in asking:
        thread.join()
    assert not failures
    assert {version for version, _ in scores} == {1, second}
    assert len(scores) == 2  # one score per version: no answer mixes two models


@pytest.mark.parametrize("file", ["score.onnx", "detector.json"])
def test_a_damaged_version_is_refused_and_the_old_one_stays(registry: Registry, following: Process, file: str) -> None:
    registry.promote(registry.register(8, damage=file))
    wait_for(lambda: following.get("/status").json()["problem"], 20)
    status = following.get("/status").json()
    assert status["ready"]
    assert status["model"]["version"] == 1
    assert following.get("/readyz").status_code == 200
    assert metric(following, 'cifake_model_swaps_total{outcome="failed"}') > 0
    assert metric(following, "cifake_model_is_champion") == 0


def test_the_last_good_model_serves_when_mlflow_is_down(
    registry: Registry, start_service: Callable[..., Process], photo: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    home = tmp_path_factory.mktemp("kept-home")
    first = start_service(registry.server.url, home)
    expected = first.post("/classify", content=photo).json()["probability_real"]
    first.stop()
    second = start_service("http://127.0.0.1:9", home)
    assert second.post("/classify", content=photo).json()["probability_real"] == expected
    status = second.get("/status").json()
    assert status["from_cache"]
    assert "127.0.0.1:9" in status["problem"]
    second.stop()


def test_before_there_is_a_champion_the_shipped_detector_answers(
    start_service: Callable[..., Process], photo: bytes
) -> None:
    service = start_service("http://127.0.0.1:9")
    answer = service.post("/classify", content=photo).json()
    assert answer["model"]["version"] == 0
    assert answer["label"] in ("REAL", "FAKE", "UNSURE")
    assert service.post("/explain", content=photo).headers["content-type"] == "image/png"
    assert service.get("/status").json()["from_cache"]
    service.stop()


def test_without_any_model_the_service_lives_but_is_not_ready(
    start_service: Callable[..., Process], photo: bytes
) -> None:
    service = start_service("http://127.0.0.1:9", ready="/livez", CIFAKE_SHIPPED="false")
    assert service.get("/readyz").status_code == 503
    answer = service.post("/classify", content=photo)
    assert answer.status_code == 503
    assert answer.json()["code"] == "no_model"
    assert int(answer.headers["retry-after"]) > 0
    wait_for(lambda: service.get("/status").json()["problem"], 20)
    service.stop()


@pytest.fixture
def without_registry(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking at the alias fails, and says where it looked."""

    def resolve(_: str) -> ModelVersion:
        raise RegistryError("cannot find it at http://me:secret@registry:5000: no answer")

    monkeypatch.setattr(champion, "resolve", resolve)
    monkeypatch.setenv("CIFAKE_POLL_SECONDS", "0.05")
    settings.cache_clear()


def test_a_last_good_model_damaged_in_any_way_leaves_the_shipped_one(without_registry: None) -> None:
    spoilt = write_tiny_bundle(settings().cache / "models" / "spoilt")
    (spoilt / FILE).write_text((spoilt / FILE).read_text().replace("block1", "block9"))  # which its graph has not
    remember(ModelVersion(name="cifake-detector", version=3, run_id="r", dataset_version="0" * 16), spoilt)
    following = Champion()
    following.check()
    assert following.current.version.version == 0


def test_a_problem_tells_no_password(without_registry: None, caplog: pytest.LogCaptureFixture) -> None:
    following = Champion()
    following.check()
    assert following.problem == "cannot find it at http://***@registry:5000: no answer"
    assert "secret" not in caplog.text


def test_what_fails_after_a_look_does_not_end_the_looking(without_registry: None) -> None:
    looks = []

    def fail() -> None:
        looks.append(1)
        raise KeyError("logit")

    following = Champion(also=fail)
    following.start()
    wait_for(lambda: len(looks) > 2, 20)
    following.stop()


def test_a_model_that_answers_nan_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = np.array([0.5, np.nan], np.float32)
    broken = SimpleNamespace(
        info=SimpleNamespace(image_size=32),
        explain=lambda _: SimpleNamespace(logits=logits),
        score=lambda _: (logits, logits),
    )
    monkeypatch.setattr(champion, "Detector", lambda *_, **__: broken)
    with pytest.raises(ModelError, match="nan"):
        champion.load(Path("broken"))
