"""A method is offered for the models that it can explain, and refused for others."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from cifake_core.bundle import Detector
from cifake_core.client.answers import ExplainOptions
from cifake_core.images import codec
from cifake_core.registry.artifacts import ModelVersion
from services.detector import inference
from services.detector.champion import Served
from services.detector.problems import ProblemError
from tests.service.conftest import Process
from tests.tiny_bundle import write_tiny_bundle

ROLLOUT = "attention-rollout"


def test_a_model_without_attention_neither_offers_rollout_nor_answers_it(service: Process, photo: bytes) -> None:
    assert ROLLOUT not in service.get("/model").json()["methods"]
    for path in ("/explain", "/explain_map"):
        answer = service.post(path, content=photo, params={"method": ROLLOUT})
        assert answer.status_code == 422
        assert answer.json()["code"] == "invalid_request"
        assert answer.json()["detail"].startswith("method: attention-rollout follows a transformer's attention")


def test_a_model_with_attention_offers_rollout_and_answers_it(tmp_path: Path, rng: np.random.Generator) -> None:
    version = ModelVersion(name="cifake-detector", version=1, run_id="r", dataset_version="0" * 16)
    photo = codec.encode(rng.integers(0, 256, (32, 32, 3), np.uint8))
    plain, attentive = (
        Served(version, Detector(write_tiny_bundle(tmp_path / str(a), attention=a)), datetime.now(UTC), False)
        for a in (False, True)
    )
    options = ExplainOptions(method=ROLLOUT, target="REAL")
    assert ROLLOUT in inference.card(attentive).methods
    answer = inference.heatmap(attentive, photo, options)
    assert answer.method == ROLLOUT
    assert np.shape(answer.heatmap) == (32, 32)
    assert inference.picture(attentive, photo, options).startswith(b"\x89PNG")
    with pytest.raises(ProblemError, match="this model has none"):
        inference.heatmap(plain, photo, options)
