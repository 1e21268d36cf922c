"""What the service answers, right and wrong, over real HTTP."""

from __future__ import annotations

import base64
import io

import httpx
import numpy as np
import pytest
from PIL import Image

from cifake_core.bundle import Detector
from cifake_core.client.answers import Classification, Status
from cifake_core.images import codec
from tests.service.conftest import Process, Registry


@pytest.fixture(scope="module")
def expected(registry: Registry, photo: bytes) -> float:
    detector = Detector(registry.folder / "0", threads=1)
    return float(detector.score(codec.normalise(photo).pixels[None])[1][0])


def test_classify_answers_a_form_a_raw_body_and_base64_alike(service: Process, photo: bytes, expected: float) -> None:
    answers = [
        service.post("/classify", files={"image": ("any.name", photo)}),
        service.post("/classify", content=photo),
        service.post("/classify", content=photo, headers={"Content-Type": "image/png"}),
        service.post("/classify", json={"image": base64.b64encode(photo).decode()}),
        service.post("/classify", json={"image": "data:image/png;base64," + base64.b64encode(photo).decode()}),
    ]
    for answer in answers:
        assert answer.status_code == 200, answer.text
        verdict = Classification.model_validate_json(answer.content)
        assert verdict.probability_real == pytest.approx(expected, abs=1e-5)
        assert verdict.label == ("REAL" if expected >= 0.5 else "FAKE")


def test_classify_says_which_model_answered_and_what_was_done_to_the_image(service: Process, photo: bytes) -> None:
    verdict = Classification.model_validate_json(service.post("/classify", content=photo).content)
    assert (verdict.model.name, verdict.model.version) == ("cifake-detector", 1)
    assert verdict.model.dataset_version == f"{0:016x}"
    assert (verdict.image.format, verdict.image.width, verdict.image.height) == ("PNG", 64, 48)
    assert verdict.image.resized
    assert verdict.image.reencoded


def test_a_canonical_image_passes_untouched(service: Process) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (32, 32, 3), np.uint8)
    verdict = Classification.model_validate_json(service.post("/classify", content=codec.encode(pixels)).content)
    assert not verdict.image.resized
    assert not verdict.image.reencoded


def _huge() -> bytes:
    buffer = io.BytesIO()
    Image.new("1", (10_000, 5_000)).save(buffer, "PNG")
    return buffer.getvalue()


def _many_scans() -> bytes:
    """A progressive JPEG of four megapixels whose last scan comes a thousand times: minutes to decode."""
    buffer = io.BytesIO()
    Image.new("RGB", (2000, 2000), "teal").save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    last = data[data.rindex(b"\xff\xc4") : -2]
    return data[:-2] + last * 1000 + data[-2:]


def _animation() -> bytes:
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    buffer = io.BytesIO()
    frames[0].save(buffer, "WEBP", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


BAD = {
    "zero bytes": (lambda photo: b"", 422, "empty"),
    "text named .jpg": (lambda photo: b"not an image at all", 415, "unsupported_format"),
    "a truncated image": (lambda photo: photo[: len(photo) // 2], 422, "corrupt"),
    "a fifty-megapixel image": (lambda photo: _huge(), 422, "too_many_pixels"),
    "a thousand scans": (lambda photo: _many_scans(), 422, "too_many_scans"),
    "an animation": (lambda photo: _animation(), 422, "too_many_frames"),
    "too many bytes": (lambda photo: photo + bytes(10_000_001), 413, "too_many_bytes"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("path", ["/classify", "/explain"])
def test_a_bad_image_is_refused_with_a_problem(service: Process, photo: bytes, path: str, case: str) -> None:
    make, status, code = BAD[case]
    answer = service.post(path, files={"image": ("photo.jpg", make(photo))})
    _assert_problem(answer, status, code)


def _assert_problem(answer: httpx.Response, status: int, code: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (problem["status"], problem["code"]) == (status, code)
    assert problem["type"] == f"urn:cifake:problem:{code}"
    assert problem["title"]
    assert problem["detail"]
    assert "Traceback" not in answer.text


WRONG = {
    "no body": ({"content": b""}, 422, "missing_image"),
    "another form field": ({"files": {"picture": b"x"}}, 422, "missing_image"),
    "two images in one form": ({"files": [("image", b"x"), ("image", b"y")]}, 422, "missing_image"),
    "broken JSON": ({"content": b"{", "headers": {"Content-Type": "application/json"}}, 422, "invalid_request"),
    "JSON without image": ({"json": {"picture": ""}}, 422, "missing_image"),
    "broken base64": ({"json": {"image": "?"}}, 422, "invalid_request"),
    "a form without boundary": (
        {"content": b"x", "headers": {"Content-Type": "multipart/form-data"}},
        422,
        "invalid_request",
    ),
    "a form that breaks off": (
        {"content": b"--x\r\nfoo", "headers": {"Content-Type": "multipart/form-data; boundary=x"}},
        422,
        "invalid_request",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_request_is_refused_with_a_problem(service: Process, case: str) -> None:
    arguments, status, code = WRONG[case]
    _assert_problem(service.post("/classify", **arguments), status, code)


def test_unknown_paths_and_methods_are_problems_too(service: Process) -> None:
    _assert_problem(service.get("/nothing/here"), 404, "not_found")
    _assert_problem(service.get("/classify"), 405, "method_not_allowed")


def test_explain_shows_original_heatmap_and_overlay_side_by_side(service: Process, photo: bytes) -> None:
    answer = service.post("/explain", files={"image": photo}, params={"size": 96})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "image/png"
    picture = Image.open(io.BytesIO(answer.content)).convert("RGB")
    assert picture.width >= 3 * 96
    seen = np.asarray(picture.crop((0, 0, 96, 96)))
    small = codec.normalise(photo).pixels
    assert np.array_equal(seen[1::3, 1::3], small)


def test_explaining_the_other_label_gives_another_map(service: Process, photo: bytes) -> None:
    pictures = {
        target: service.post("/explain", content=photo, params={"target": target}).content
        for target in ("REAL", "FAKE", "predicted")
    }
    assert pictures["REAL"] != pictures["FAKE"]


@pytest.mark.parametrize("options", [{"method": "nope"}, {"block": "nope"}, {"size": 9}, {"alpha": 2}, {"colour": "x"}])
def test_an_option_that_does_not_exist_is_refused(service: Process, photo: bytes, options: dict[str, str]) -> None:
    answer = service.post("/explain", content=photo, params=options)
    _assert_problem(answer, 422, "invalid_request")
    assert next(iter(options)) in answer.json()["detail"]


def test_status_tells_the_served_version(service: Process) -> None:
    status = Status.model_validate_json(service.get("/status").content)
    assert status.ready
    assert status.model is not None
    assert status.model.version == 1
    assert status.problem is None


def test_health_endpoints_answer(service: Process) -> None:
    assert service.get("/livez").status_code == 200
    assert service.get("/readyz").status_code == 200
