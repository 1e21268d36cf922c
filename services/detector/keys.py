"""Who may ask, and how often: API keys by their SHA-256 from a secret file, a token bucket for each."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import logging
import time
from pathlib import Path

from cifake_core.settings import settings
from services.detector.problems import ProblemError

logger = logging.getLogger("bentoml.cifake.keys")
_LOOK_SECONDS = 5.0
_MISSING = "send an API key as `X-API-Key: …` or `Authorization: Bearer …`"


def needed() -> bool:
    """Are keys asked for? By default wherever others than this machine can reach the service.

    Without CIFAKE_HOST, which `cifake serve` sets, the address is unknown: `bentoml serve` binds to all.
    """
    if settings().auth != "auto":
        return settings().auth == "on"
    host = settings().host if "host" in settings().model_fields_set else ""
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host != "localhost"


class Keys:
    """The keys of a file of lines `NAME SHA256`; read again when it changes, so that keys can be exchanged live.

    Args:
        file: the secret file; without one, or with one that cannot be read, no key is right.
        rate: requests a second that each key may make in this worker, in bursts of twice as many but at least one; 0
            for any number.
    """

    def __init__(self, file: Path | None, rate: float) -> None:
        self._file, self._rate = file, rate
        self._burst = max(1, 2 * rate)
        self._digests: dict[str, bytes] = {}
        self._stamp: tuple[int, int] | None = None
        self._looked = -_LOOK_SECONDS
        self._problem = ""
        self._buckets: dict[str, tuple[float, float]] = {}

    def check(self, headers: list[tuple[bytes, bytes]]) -> str:
        """The name of the key in a request's headers.

        Raises:
            ProblemError: `unauthorized` or `rate_limited`.
        """
        self._read()
        digest = hashlib.sha256(_sent(headers)).digest()
        found = ""
        for name, known in self._digests.items():  # all of them: the time must not tell which one was nearly right
            if hmac.compare_digest(digest, known):
                found = name
        if not found:
            detail = _MISSING if self._digests else "this service has no API keys yet; set CIFAKE_API_KEYS"
            raise ProblemError("unauthorized", detail, {"WWW-Authenticate": "Bearer"})
        self._take(found)
        return found

    def _take(self, name: str) -> None:
        if not self._rate:
            return
        now = time.monotonic()
        tokens, since = self._buckets.get(name, (self._burst, now))
        tokens = min(self._burst, tokens + (now - since) * self._rate)
        if tokens < 1:
            wait = max(1, round((1 - tokens) / self._rate))
            detail = f"this key may make {self._rate:g} requests a second"
            raise ProblemError("rate_limited", detail, {"Retry-After": str(wait)})
        self._buckets[name] = (tokens - 1, now)

    def _read(self) -> None:
        now = time.monotonic()
        if self._file is None or now - self._looked < _LOOK_SECONDS:
            return
        self._looked = now
        try:
            state = self._file.stat()
            stamp = (state.st_mtime_ns, state.st_ino)
            if stamp == self._stamp:
                return
            self._digests = _parse(self._file.read_text())
            self._stamp, self._problem = stamp, ""
            logger.info("%s: %d API keys", self._file, len(self._digests))
        except (OSError, ValueError) as exc:
            if isinstance(exc, OSError):  # gone, and the keys with it; a broken new file leaves the old ones
                self._digests, self._stamp = {}, None
            if str(exc) != self._problem:
                logger.error("%s: no API keys read from it: %s", self._file, exc)
            self._problem = str(exc)


def _parse(text: str) -> dict[str, bytes]:
    found = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            name, digest = line.split()
            found[name] = bytes.fromhex(digest)
        except ValueError as exc:
            raise ValueError(f"line {number} is not `NAME SHA256`") from exc
        if len(found[name]) != 32:
            raise ValueError(f"line {number}: a SHA-256 has 64 hexadecimal digits")
    return found


def _sent(headers: list[tuple[bytes, bytes]]) -> bytes:
    for name, value in headers:
        if name == b"x-api-key":
            return value
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            return value[7:].strip()
    return b""
