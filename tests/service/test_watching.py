"""What a service of two workers says of its traffic and of its verdicts; the registry is away all the while."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from cifake_core.bundle import FILE, REFERENCE, Detector, sha256
from cifake_core.client import answers
from cifake_core.errors import ModelError
from cifake_core.images import codec
from cifake_core.registry.artifacts import ModelVersion, remember
from cifake_core.settings import settings
from services.detector import feedback
from services.detector.champion import Served
from services.detector.drift import Watch
from services.detector.problems import ProblemError
from tests.service.conftest import Process, metric, wait_for
from tests.tiny_bundle import write_tiny_bundle

NOBODY = "http://127.0.0.1:9"


def pictures(rng: np.random.Generator, rows: int, smooth: bool = False) -> np.ndarray:
    """Noise around a grey of its own, (N, 32, 32, 3); `smooth` has none of the noise."""
    grey = rng.integers(60, 190, (rows, 1, 1, 3))
    return np.clip(grey + rng.normal(0, 1 if smooth else 40, (rows, 32, 32, 3)), 0, 255).astype(np.uint8)


def parts(images: np.ndarray) -> list[tuple[str, bytes]]:
    made = []
    for pixels in images:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        made.append(("image", buffer.getvalue()))
    return made


def series(name: str, feature: str, version: int = 3) -> str:
    return f'cifake_drift_{name}{{feature="{feature}",model_version="{version}"}}'


def canonical(images: np.ndarray) -> np.ndarray:
    return np.stack([codec.decode(codec.encode(pixels)).pixels for pixels in images])


@pytest.fixture(scope="module")
def watched(start_service: Callable[..., Process], tmp_path_factory: pytest.TempPathFactory) -> Process:
    """A service of two workers on a bundle with a reference, out of its cache."""
    home = tmp_path_factory.mktemp("watched")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CIFAKE_HOME", str(home))
        settings.cache_clear()
        reference = canonical(pictures(np.random.default_rng(5), 2000))
        bundle = write_tiny_bundle(home / "bundle", reference=reference)
        kept = settings().cache / "models" / sha256(bundle / FILE)
        kept.parent.mkdir(parents=True)
        bundle.rename(kept)
        remember(ModelVersion(name="cifake-detector", version=3, run_id="r", dataset_version="0" * 16), kept)
    settings.cache_clear()
    given = {"CIFAKE_SERVICE_WORKERS": "2", "CIFAKE_POLL_SECONDS": "3600", "CIFAKE_DRIFT_IMAGES_PER_SECOND": "0"}
    service = start_service(NOBODY, home=home, **given)
    wait_for(lambda: service.loaded() == 2)
    return service


def send(service: Process, images: np.ndarray) -> None:
    for start in range(0, len(images), 10):
        assert service.post("/classify_batch", files=parts(images[start : start + 10])).status_code == 200


def workers(service: Process) -> list[psutil.Process]:
    children = psutil.Process(service.popen.pid).children(recursive=True)
    return [c for c in children if c.status() != psutil.STATUS_ZOMBIE and "--worker-id" in c.cmdline()]


def test_drift_is_told_once_over_all_workers_and_outlives_one_of_them(
    watched: Process, rng: np.random.Generator
) -> None:
    send(watched, pictures(rng, 190))
    assert watched.post("/classify", files=parts(pictures(rng, 1))).status_code == 200
    assert watched.post("/explain_map", files=parts(pictures(rng, 1))).status_code == 200
    for feature in ("score", "contrast"):
        wait_for(lambda feature=feature: metric(watched, series("window_count", feature)) == 192)
    assert metric(watched, series("psi", "score")) is None, "192 values are too few to tell"

    send(watched, pictures(rng, 108))
    wait_for(lambda: metric(watched, series("window_count", "score")) == 300)
    for feature in ("score", "contrast", "high_frequency"):
        assert metric(watched, series("psi", feature)) < 0.2
        assert metric(watched, series("ks", feature)) < 0.15

    victim = workers(watched)[0]
    os.kill(victim.pid, signal.SIGKILL)
    wait_for(lambda: watched.loaded() == 3)
    living = [each.pid for each in workers(watched)]
    assert victim.pid not in living
    assert len(living) == 2
    # Whichever worker is asked, the old one included, it says the same.
    assert {metric(watched, series("window_count", "score")) for _ in range(20)} == {300}

    send(watched, pictures(rng, 300, smooth=True))
    wait_for(lambda: metric(watched, series("window_count", "contrast")) == 600)
    assert metric(watched, series("psi", "contrast")) > 0.25
    assert metric(watched, series("ks", "contrast")) > 0.25


def test_a_model_without_a_reference_says_nothing_of_drift(tmp_path: Path, rng: np.random.Generator) -> None:
    version = ModelVersion(name="cifake-detector", version=1, run_id="r", dataset_version="0" * 16)
    served = Served(version, Detector(write_tiny_bundle(tmp_path / "bundle")), datetime.now(UTC), False)
    watch = Watch()
    watch.observe(served, pictures(rng, 1)[0], 0.5)
    assert list(watch.collector(served).collect()) == []
    assert list(watch.collector(None).collect()) == []


def test_drift_that_cannot_be_written_is_left_out(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path / "nowhere"))
    version = ModelVersion(name="cifake-detector", version=1, run_id="r", dataset_version="0" * 16)
    bundle = write_tiny_bundle(tmp_path / "bundle", reference=pictures(rng, 100))
    served = Served(version, Detector(bundle), datetime.now(UTC), False)
    assert list(Watch().collector(served).collect()) == []


def test_a_reference_that_was_changed_is_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    bundle = write_tiny_bundle(tmp_path / "bundle", reference=pictures(rng, 100))
    assert Detector(bundle).reference is not None
    (bundle / REFERENCE).write_text("{}")
    with pytest.raises(ModelError, match="SHA-256"):
        Detector(bundle)


def test_feedback_gives_live_accuracy_with_an_interval(watched: Process, rng: np.random.Generator) -> None:
    answers = [watched.post("/classify", files=parts(pictures(rng, 1))).json() for _ in range(6)]
    batch = watched.post("/classify_batch", files=parts(pictures(rng, 4))).json()
    truths = [(a["request_id"], 0, a["label"]) for a in answers]
    truths += [(batch["request_id"], k, item["verdict"]["label"]) for k, item in enumerate(batch["results"])]
    other = {"REAL": "FAKE", "FAKE": "REAL"}
    for number, (request_id, index, verdict) in enumerate(truths):
        told = verdict if number else other[verdict]
        receipt = watched.post("/feedback", json={"request_id": request_id, "index": index, "label": told})
        assert receipt.status_code == 200, receipt.text
        assert receipt.json() == {
            "request_id": request_id,
            "index": index,
            "label": told,
            "verdict": verdict,
            "correct": bool(number),
            "model_version": 3,
        }
    assert metric(watched, 'cifake_feedback_accuracy{model_version="3"}') == 0.9
    assert metric(watched, 'cifake_feedback_accuracy_lower{model_version="3"}') == pytest.approx(0.5958, abs=1e-4)
    assert metric(watched, 'cifake_feedback_accuracy_upper{model_version="3"}') == pytest.approx(0.9821, abs=1e-4)
    # Who was wrong says so; each image counts once.
    watched.post("/feedback", json={"request_id": truths[0][0], "label": truths[0][2]})
    assert metric(watched, 'cifake_feedback_accuracy{model_version="3"}') == 1
    told = re.findall(r"^cifake_feedback_total{.*} (\S+)$", watched.get("/metrics").text, re.MULTILINE)
    assert sum(map(float, told)) == 10


@pytest.mark.parametrize(
    ("document", "status", "code"),
    [
        ({"request_id": "never-given", "label": "REAL"}, 404, "unknown_request"),
        ({"request_id": "never-given", "label": "MAYBE"}, 422, "invalid_request"),
        ({"request_id": "never-given"}, 422, "invalid_request"),
        ({"request_id": "never-given", "label": "REAL", "image": "x"}, 422, "invalid_request"),
        ({"request_id": "\ud800", "label": "REAL"}, 422, "invalid_request"),
        ({"request_id": "short", "label": "REAL"}, 422, "invalid_request"),
        ({"request_id": "x" * 100_000, "label": "REAL"}, 413, "too_many_bytes"),
        ([], 422, "invalid_request"),
    ],
)
def test_feedback_that_means_nothing_is_refused(watched: Process, document: object, status: int, code: str) -> None:
    answer = watched.post("/feedback", content=json.dumps(document), headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_no_image_is_kept(watched: Process, rng: np.random.Generator) -> None:
    image = parts(pictures(rng, 1))
    answer = watched.post("/classify", files=image).json()
    said = {"request_id": answer["request_id"], "label": "REAL"}
    assert watched.post("/feedback", json=said).status_code == 200
    (file,) = watched.log.parent.rglob("feedback.db")
    with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as database:
        kept = database.execute("SELECT * FROM verdicts").fetchall()
    assert kept, "verdicts are"
    assert max(len(str(value)) for row in kept for value in row) <= 64
    assert all(
        image[0][1][100:164] not in file.read_bytes() for file in watched.log.parent.rglob("*") if file.is_file()
    )


def said(label: str) -> answers.Classification:
    return answers.Classification(
        label=label,
        probability_real=0.5,
        threshold=0.5,
        unsure=None,
        image=answers.Image(format="PNG", width=1, height=1, resized=True, reencoded=True),
        warnings=[],
        model=answers.Model(name="cifake-detector", version=3, dataset_version="0" * 16, topology="tiny"),
    )


def tell(verdicts: feedback.Verdicts, request_id: str, label: str) -> answers.FeedbackReceipt:
    return asyncio.run(verdicts.feedback(answers.Feedback(request_id=request_id, label=label)))


def test_an_id_used_again_does_not_change_the_verdict(home: Path) -> None:
    verdicts = feedback.Verdicts()
    for label in ("REAL", "FAKE"):
        verdicts.remember(said(label), "once-given")
    assert tell(verdicts, "once-given", "REAL").verdict == "REAL"


def test_verdicts_beyond_the_most_go_and_the_totals_stay(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feedback, "MOST_VERDICTS", 2)
    monkeypatch.setattr(feedback, "PURGE_SECONDS", -1)
    verdicts = feedback.Verdicts()
    for number in range(5):
        verdicts.remember(said("REAL"), f"number-{number}")
        for truth in ("REAL", "FAKE"):
            tell(verdicts, f"number-{number}", truth)
    assert verdicts.counts() == [(3, "FAKE", "REAL", 5)]
    with closing(sqlite3.connect(home / "feedback.db")) as database:
        for table in ("verdicts", "feedback"):
            kept = database.execute(f"SELECT DISTINCT request_id FROM {table} ORDER BY 1").fetchall()
            assert kept == [("number-3",), ("number-4",)]
    with pytest.raises(ProblemError) as caught:
        tell(verdicts, "number-0", "REAL")
    assert caught.value.code == "unknown_request"


def test_feedback_that_cannot_be_kept_is_a_problem(home: Path) -> None:
    home.mkdir()
    (home / "feedback.db").write_bytes(b"not a database" * 100)
    with pytest.raises(ProblemError) as caught:
        tell(feedback.Verdicts(), "once-given", "REAL")
    assert caught.value.code == "no_feedback"
