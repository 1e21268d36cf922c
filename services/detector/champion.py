"""The model being served: follows the registry alias `champion`, swaps between requests, survives a registry outage."""

from __future__ import annotations

import ctypes
import logging
import random
import re
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from cifake_core.bundle import PARITY_TOLERANCE, Detector
from cifake_core.errors import CifakeError, ModelError, NotRegisteredError, StoreError
from cifake_core.registry.artifacts import ModelVersion, fetch, last_good, remember, resolve, shipped
from cifake_core.settings import settings
from services.detector import metrics

logger = logging.getLogger("bentoml.cifake.champion")
BELL_SECONDS = 0.25  # how often a waiting worker looks whether it was woken


@dataclass(frozen=True)
class Served:
    """A verified model and which version it is; a request takes one and keeps it to its end."""

    version: ModelVersion
    detector: Detector
    since: datetime
    from_cache: bool


class Champion:
    """Polls the alias in a thread; `current` is what requests use, `problem` why it may not be the newest.

    `named` is what the alias named when last seen.

    Args:
        also: done after every look, in the same thread.
    """

    def __init__(self, also: Callable[[], None] = lambda: None) -> None:
        self.current: Served | None = None
        self.named: ModelVersion | None = None
        self.problem: str | None = None
        self.checked: datetime | None = None
        self._also = also
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="champion", daemon=True)

    def start(self) -> None:
        """Begin to follow the alias."""
        self._thread.start()

    def stop(self) -> None:
        """Stop following; the current model stays."""
        self._stop.set()
        self._wake.set()

    def wake(self) -> None:
        """Let every worker that shares this CIFAKE_HOME look at the alias now (a webhook's business)."""
        try:
            _bell().parent.mkdir(parents=True, exist_ok=True)
            _bell().touch()
        except OSError as exc:
            logger.warning("%s: other workers look at their next poll: %s", _bell(), exc)
        self._wake.set()

    def check(self) -> None:
        """Look at the alias once: load and verify what it names beside the current model, then swap."""
        version: ModelVersion | None = None
        answered = True
        try:
            version = self.named = resolve("champion")
            if self.current is None or key(version) != key(self.current.version):
                folder = fetch(version)
                self._swap(version, folder, from_cache=False)
            self.problem = None
        except NotRegisteredError as exc:
            self._failed(str(exc), None)
        except CifakeError as exc:
            answered = version is not None
            self._failed(str(exc), version)
        except Exception as exc:
            answered = version is not None
            logger.error("looking at the champion failed\n%s", masked(traceback.format_exc()))
            self._failed(f"{type(exc).__name__}: {exc}", version)
        self.checked = datetime.now(UTC)
        metrics.registry_reachable.set(answered)
        metrics.ready.set(self.current is not None)
        if self.named is not None and self.current is not None:
            metrics.model_is_champion.set(key(self.named) == key(self.current.version))

    def _failed(self, why: str, version: ModelVersion | None) -> None:
        why = masked(why)
        if why != self.problem:
            logger.warning("keeping the model that is loaded: %s", why)
        self.problem = why
        if version is not None:
            metrics.model_swaps_total.labels("failed").inc()
        if self.current is None:
            self._load_last_good()

    def _swap(self, version: ModelVersion, folder: Path, *, from_cache: bool) -> None:
        detector = load(folder)
        old, self.current = self.current, Served(version, detector, datetime.now(UTC), from_cache)
        if old:
            metrics.model_info.labels(*_labels(old)).set(0)
        metrics.model_info.labels(*_labels(self.current)).set(1)
        metrics.model_swaps_total.labels("cache" if from_cache else "swapped").inc()
        logger.info(
            "serving %s version %s (was %s)", version.name, version.version, old.version.version if old else None
        )
        if not from_cache:
            try:
                remember(version, folder)
            except StoreError as exc:  # a full disk must not keep a good model from serving
                logger.warning("the champion is not remembered: %s", exc)

    def _load_last_good(self) -> None:
        """Without a registry: the version served last, else the detector that ships with cifake, if there is one."""
        for find in (last_good, shipped):
            try:
                if kept := find():
                    self._swap(*kept, from_cache=True)
                    return
            except Exception as exc:  # damaged in whatever way, it must not keep the other from serving
                logger.warning("the %s model cannot be used: %s: %s", find.__name__, type(exc).__name__, exc)

    def _run(self) -> None:
        while not self._stop.is_set():
            rung = _rung()
            try:
                self.check()
                self._also()
                give_back_memory()
            except Exception:  # the alias must be followed all the same
                logger.error("a look at the registry failed\n%s", masked(traceback.format_exc()))
            # Jitter, so that many replicas do not ask at the same moment.
            until = time.monotonic() + settings().poll_seconds * random.uniform(0.8, 1.2)
            while (left := until - time.monotonic()) > 0 and _rung() == rung:
                if self._wake.wait(min(left, BELL_SECONDS)):
                    break
            self._wake.clear()


def _bell() -> Path:
    """Touched to wake the workers: the one that got a webhook cannot reach the others otherwise."""
    return settings().cache / "models" / "alias-moved"


def _rung() -> int:
    try:
        return _bell().stat().st_mtime_ns
    except OSError:
        return 0


def load(folder: Path) -> Detector:
    """A verified detector, warmed up; its explanation graph must agree with its score graph.

    Raises:
        ModelError: the bundle is damaged or its two graphs disagree.
    """
    # One thread a session: requests run side by side, and idle threads of ONNX Runtime spin.
    detector = Detector(folder, threads=1)
    size = detector.info.image_size
    probe = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), np.uint8)
    worst = float(np.abs(detector.explain(probe).logits - detector.score(probe)[0]).max())
    if not worst <= PARITY_TOLERANCE:  # NaN is neither
        raise ModelError(f"{folder}: the explanation graph's logits differ from the score graph's by {worst:.2g}")
    return detector


def masked(text: str) -> str:
    """Without the user and password of any URL in it: a problem is shown to strangers."""
    return re.sub(r"://[^/\s]*@", "://***@", text)


def give_back_memory() -> None:
    """Return to the system what replaced models and large images took: glibc keeps it.

    Some 25 MB a worker after ten swaps, and more after thousands of hostile images.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # other C libraries have none
    if trim is not None:
        trim(0)


def key(version: ModelVersion) -> tuple[int, str | None]:
    """What makes two versions the same: a number may be given anew after its version was deleted."""
    return version.version, version.run_id


def _labels(served: Served) -> tuple[str, str, str, str]:
    version = served.version
    return version.name, str(version.version), version.dataset_version, served.detector.info.topology
