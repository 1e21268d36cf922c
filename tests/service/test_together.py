"""Requests that come in at the same moment are answered together, and each with its own."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np

from cifake_core.bundle import Detector
from cifake_core.images import codec
from tests.service.conftest import Process, Registry


def test_many_canonical_images_at_once_get_their_own_verdicts(service: Process, registry: Registry) -> None:
    detector = Detector(registry.folder / "0", threads=1)
    rng = np.random.default_rng(0)
    files = [codec.encode(rng.integers(0, 256, (32, 32, 3), np.uint8)) for _ in range(60)]
    expected = detector.probability_real(np.stack([codec.normalise(file).pixels for file in files]))
    with httpx.Client(base_url=service.url, trust_env=False, timeout=30) as http, ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda file: http.post("/classify", files={"image": file}), files))
    assert [answer.status_code for answer in answers] == [200] * len(files)
    found = [answer.json()["probability_real"] for answer in answers]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert len({answer.json()["request_id"] for answer in answers}) == len(files)


def test_a_refused_image_does_no_harm_to_those_beside_it(service: Process) -> None:
    good = codec.encode(np.zeros((32, 32, 3), np.uint8))
    with httpx.Client(base_url=service.url, trust_env=False, timeout=30) as http, ThreadPoolExecutor(8) as pool:
        sent = [good, b"not an image", good[:-40]] * 8
        codes = list(pool.map(lambda file: http.post("/classify", content=file).status_code, sent))
    assert codes == [200, 415, 422] * 8
