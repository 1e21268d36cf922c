"""After a promotion: does every replica serve the champion, and does the public address answer as the judged model?"""

from __future__ import annotations

import io
import logging
import socket
import time
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from cifake_core.bundle import PARITY_TOLERANCE, Detector
from cifake_core.client.answers import Classification
from cifake_core.client.remote import DetectorClient
from cifake_core.errors import CheckFailedError, CifakeError, ConfigurationError, ModelError, ServiceError
from cifake_core.registry.artifacts import ModelVersion, fetch, resolve
from cifake_core.settings import settings

logger = logging.getLogger("cifake.rollout")
POLL_SECONDS = 0.5


def rollout(ref: str = "champion", timeout: float = 120, roll_back: bool = False) -> dict[str, Any]:
    """Wait until every replica serves a version, then compare the public address's answers with the bundle's own.

    Args:
        timeout: seconds to wait for the replicas, and then for the public address.
        roll_back: when that fails, make the previous champion champion again, if this version still is.

    Returns:
        version, replicas (how many), seconds (until all served it), golden (images compared), worst (difference of
        P(REAL) found), rolled_back (false).

    Raises:
        CheckFailedError: its bundle is broken, a replica does not serve it in time, or an answer differs.
        RegistryError, StoreError: the version cannot be had for another reason; nothing is rolled back.
    """
    version = resolve(ref)
    result: dict[str, Any] = {"version": version.version, "replicas": 0, "seconds": None, "golden": 0, "worst": None}
    try:
        detector = Detector(fetch(version), threads=1)
        _wait(version, timeout, result)
        _compare(version, detector, time.monotonic() + timeout, result)
    except (CheckFailedError, ModelError) as exc:
        went_back = ""
        if roll_back:
            went_back = _roll_back(version, str(exc))
        result["rolled_back"] = went_back.startswith("; rolled back")
        raise CheckFailedError(f"{exc}{went_back}", result) from exc
    return {**result, "rolled_back": False}


def replicas(url: str) -> list[str]:
    """The URLs of all replicas behind a name: one for each address it resolves to.

    Behind TLS a replica cannot be asked by address, so there the name stands for all.

    Raises:
        ConfigurationError: not an address. ServiceError: the name does not resolve.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or 80
    except ValueError as exc:
        raise ConfigurationError(f"{url}: not an address ({exc})") from exc
    if parts.scheme != "http" or not parts.hostname:
        return [url]
    try:
        found = socket.getaddrinfo(parts.hostname, port, socket.AF_INET, socket.SOCK_STREAM)
    except OSError as exc:
        raise ServiceError(f"{url}: the name does not resolve ({exc.strerror})") from exc
    hosts = sorted({str(address[4][0]) for address in found})
    return [f"http://{host}:{port}{parts.path}" for host in hosts]


def served(replica: str) -> set[int]:
    """The versions that a replica's workers serve; one when they agree.

    Raises:
        ServiceError: it does not answer, or not as a detector does.
    """
    from prometheus_client.parser import text_string_to_metric_families

    with DetectorClient(replica, timeout=5) as client:
        try:
            families = [f for f in text_string_to_metric_families(client.metrics()) if f.name == "cifake_model_info"]
            return {int(each.labels["version"]) for f in families for each in f.samples if each.value == 1}
        except (ValueError, KeyError) as exc:
            raise ServiceError(f"{replica}: its /metrics are not a detector's") from exc


def _wait(version: ModelVersion, timeout: float, result: dict[str, Any]) -> None:
    start = time.monotonic()
    while True:
        late = {}
        try:
            asked = replicas(settings().replicas_url)
            result["replicas"] = len(asked)
            for replica in asked:
                try:
                    found = served(replica)
                    if found != {version.version}:
                        late[replica] = "serves " + (" and ".join(f"version {v}" for v in sorted(found)) or "nothing")
                except ServiceError as exc:
                    late[replica] = str(exc)
        except ServiceError as exc:
            late[settings().replicas_url] = str(exc)
        if not late:
            result["seconds"] = round(time.monotonic() - start, 2)
            logger.info("%s replicas serve version %s", result["replicas"], version.version)
            return
        if time.monotonic() - start > timeout:
            said = "; ".join(f"{replica} {why}" for replica, why in late.items())
            raise CheckFailedError(f"version {version.version} is not served everywhere after {timeout:g} s: {said}")
        time.sleep(POLL_SECONDS)


def _compare(version: ModelVersion, detector: Detector, until: float, result: dict[str, Any]) -> None:
    """The bundle's parity images through the public address, against the bundle on the same normalised pixels."""
    from PIL import Image

    from cifake_core.images import codec

    with np.load(detector.folder / "parity.npz") as parity:
        images = parity["images"][:16]
    worst = 0.0
    with DetectorClient() as service:
        for pixels in images:
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "PNG")
            seen = codec.resize(codec.normalise(buffer.getvalue()).pixels, detector.info.image_size)
            expected = float(detector.probability_real(seen[None])[0])
            answer = _answer(service, buffer.getvalue(), until)
            if answer.model.version != version.version:
                raise CheckFailedError(f"{service.url}: version {answer.model.version} answers a golden image")
            worst = float(np.maximum(worst, abs(answer.probability_real - expected)))  # NaN stays
    result.update(golden=len(images), worst=round(worst, 7))
    if not worst <= PARITY_TOLERANCE:
        raise CheckFailedError(
            f"{settings().service_url}: a golden image is answered {worst:.2g} away from what version "
            f"{version.version} gives; at most {PARITY_TOLERANCE:g} is allowed"
        )


def _answer(service: DetectorClient, image: bytes, until: float) -> Classification:
    """The answer to a golden image; a replica that just goes away is not the model's fault, so it is asked again."""
    while True:
        try:
            return service.classify(image)
        except ServiceError as exc:
            if time.monotonic() > until:
                raise CheckFailedError(f"a golden image got no answer: {exc}") from exc
        time.sleep(POLL_SECONDS)


def _roll_back(version: ModelVersion, why: str) -> str:
    from cifake_core.registry.promotion import rollback

    try:
        done = rollback(reason=f"rollout failed: {why}", only_from=version.version)
    except CifakeError as exc:
        return f"; not rolled back: {exc}"
    if done["rolled_back"]:
        return f"; rolled back to version {done['champion']}"
    return f"; not rolled back: version {done['champion']} is champion by now"
