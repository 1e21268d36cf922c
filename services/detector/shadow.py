"""Shadow mode: what the alias `challenger` names scores a share of the traffic, and nobody is answered by it.

Its scores are compared with the champion's in the background; where the labels differ, that is counted and logged.
"""

from __future__ import annotations

import json
import logging
import random
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np
from prometheus_client import Counter, Gauge, Histogram

from cifake_core.errors import NotRegisteredError
from cifake_core.images import codec
from cifake_core.registry.artifacts import fetch, resolve
from cifake_core.settings import settings
from services.detector.background import Background
from services.detector.champion import Served, key, load, masked

logger = logging.getLogger("bentoml.cifake.shadow")

images_total = Counter(
    "cifake_shadow_images", "Images that the challenger scored too.", ["champion", "challenger", "outcome"]
)
difference = Histogram(
    "cifake_shadow_difference", "Distance of the challenger's P(REAL) from the champion's.",
    buckets=(0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1),
)  # fmt: skip
version_loaded = Gauge(
    "cifake_shadow_version", "The challenger's version; 0 while there is none.", multiprocess_mode="livemax"
)


class _Answered(NamedTuple):
    served: Served
    pixels: np.ndarray
    probability_real: float


class Shadow:
    """The challenger of this worker; `current` is None without shadow mode or without a challenger."""

    def __init__(self) -> None:
        self.current: Served | None = None
        self._problem = ""
        self._answered: Background[_Answered] = Background("shadow", self._compare)

    def look(self) -> None:
        """Load what the alias names; a challenger that cannot be had is no challenger, and is said in the log."""
        if not settings().shadow:
            return
        try:
            version = resolve("challenger")
            if self.current is None or key(version) != key(self.current.version):
                self.current = Served(version, load(fetch(version)), datetime.now(UTC), from_cache=False)
                logger.info("version %s scores %g of the traffic in the shadow", version.version, settings().shadow)
            self._problem = ""
        except NotRegisteredError:
            self.current = None
        except Exception as exc:
            problem = masked(f"{type(exc).__name__}: {exc}")
            if problem != self._problem:
                logger.warning("no challenger in the shadow: %s", problem)
            self._problem = problem
        version_loaded.set(self.current.version.version if self.current else 0)

    def observe(self, served: Served, pixels: np.ndarray, probability_real: float) -> None:
        """One answered image: (32, 32, 3) uint8 as normalised, and the champion's score."""
        if self.current is not None and random.random() < settings().shadow:
            self._answered.put(_Answered(served, pixels, probability_real))

    def _compare(self, answered: list[_Answered]) -> None:
        challenger = self.current
        if challenger is None:
            return
        size = challenger.detector.info.image_size
        scores = challenger.detector.probability_real(np.stack([codec.resize(each.pixels, size) for each in answered]))
        for each, score in zip(answered, scores.tolist(), strict=True):
            versions = str(each.served.version.version), str(challenger.version.version)
            ours, theirs = each.served.detector.label(each.probability_real), challenger.detector.label(score)
            images_total.labels(*versions, "agree" if ours == theirs else "disagree").inc()
            difference.observe(abs(score - each.probability_real))
            if ours != theirs:
                champion = {"version": versions[0], "label": ours, "probability_real": round(each.probability_real, 6)}
                other = {"version": versions[1], "label": theirs, "probability_real": round(score, 6)}
                logger.info("disagreement %s", json.dumps({"champion": champion, "challenger": other}))


shadow = Shadow()
