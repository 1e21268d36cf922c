"""Shadow mode: the challenger is asked, compared, counted and logged, and never answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from cifake_core.registry.artifacts import ModelVersion
from cifake_core.settings import settings
from services.detector import shadow
from tests.service.conftest import Process, Registry, encoded, metric, wait_for

MODEL = "cifake-detector"


def _counted(service: Process, outcome: str) -> float:
    lines = service.get("/metrics").text.splitlines()
    found = [line for line in lines if line.startswith("cifake_shadow_images_total{") and f'"{outcome}"' in line]
    return sum(float(line.rpartition(" ")[2]) for line in found)


@pytest.fixture(scope="module")
def shadowing(registry: Registry, start_service: Callable[..., Process]) -> Process:
    """A service that asks a challenger about every image."""
    return start_service(registry.server.url, CIFAKE_SHADOW="1")


@pytest.fixture
def challenged(registry: Registry, shadowing: Process) -> Iterator[tuple[Process, int]]:
    """That service, its challenger another model."""
    api, service = registry.api, shadowing
    version = registry.register(31)
    api.set_registered_model_alias(MODEL, "challenger", str(version))
    wait_for(lambda: service.get("/status").json()["challenger"] == version, 30)
    yield service, version
    if "challenger" in api.get_registered_model(MODEL).aliases:
        api.delete_registered_model_alias(MODEL, "challenger")


def test_the_challenger_scores_all_and_answers_none(
    registry: Registry, service: Process, challenged: tuple[Process, int]
) -> None:
    shadowed, version = challenged
    rng = np.random.default_rng(0)
    images = [encoded(rng.integers(0, 256, (32, 32, 3), np.uint8) // (1 + k % 3), "PNG") for k in range(20)]
    disagreed = _counted(shadowed, "disagree")
    asked = _counted(shadowed, "agree") + disagreed
    plain = [service.post("/classify", content=image).json() for image in images]
    for image, expected in zip(images, plain, strict=True):
        answer = shadowed.post("/classify", content=image).json()
        assert answer["model"]["version"] == 1
        assert answer["probability_real"] == expected["probability_real"]
    batch = shadowed.post("/classify_batch", files=[("image", image) for image in images])
    assert batch.json()["model"]["version"] == 1
    wait_for(lambda: _counted(shadowed, "agree") + _counted(shadowed, "disagree") == asked + 40, 20)
    assert metric(shadowed, "cifake_shadow_difference_count") == asked + 40
    disagreed = _counted(shadowed, "disagree") - disagreed
    log = shadowed.log.read_text()
    assert log.count(f'"challenger": {{"version": "{version}"') == disagreed

    registry.api.delete_registered_model_alias(MODEL, "challenger")
    wait_for(lambda: shadowed.get("/status").json()["challenger"] is None, 20)
    assert metric(shadowed, "cifake_shadow_version") == 0


def test_a_damaged_challenger_disturbs_nobody(
    registry: Registry, challenged: tuple[Process, int], photo: bytes
) -> None:
    shadowed, version = challenged
    spoilt = registry.register(32, damage="score.onnx")
    api = registry.api
    api.set_registered_model_alias(MODEL, "challenger", str(spoilt))
    wait_for(lambda: "no challenger in the shadow" in shadowed.log.read_text(), 20)
    assert shadowed.post("/classify", content=photo).status_code == 200
    status = shadowed.get("/status").json()
    assert (status["ready"], status["problem"], status["challenger"]) == (True, None, version)


def test_a_challenger_that_fails_as_nothing_of_ours_does_is_none(
    home: object, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def load(_: object) -> None:
        raise KeyError("logit")

    version = ModelVersion(name=MODEL, version=9, run_id="r", dataset_version="0" * 16)
    for name, fake in {"resolve": lambda _: version, "fetch": lambda _: None, "load": load}.items():
        monkeypatch.setattr(shadow, name, fake)
    monkeypatch.setenv("CIFAKE_SHADOW", "1")
    settings.cache_clear()
    shadowing = shadow.Shadow()
    for _ in range(2):
        shadowing.look()
    assert shadowing.current is None
    assert caplog.text.count("KeyError: 'logit'") == 1
