"""How far live traffic is from what the served model was validated on: windowed histograms, no images kept.

Features are measured in batches, off the request's path. Under several workers each keeps its window in a file
beside prometheus-client's own, and whoever is scraped adds them up; a worker's counts outlive it until they are old.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from cifake_core.bundle import REFERENCE
from cifake_core.monitoring import features
from cifake_core.monitoring.window import Window, empty
from cifake_core.settings import settings
from services.detector.background import GATHER_SECONDS, Background
from services.detector.champion import Served

logger = logging.getLogger("bentoml.cifake.drift")


class _Seen(NamedTuple):
    served: Served
    pixels: np.ndarray
    probability_real: float


class Watch:
    """The traffic of this worker; `observe` costs a request a few microseconds."""

    def __init__(self) -> None:
        self._seen: Background[_Seen] = Background("drift", self._measure)
        self._windows: dict[str, Window] = {}
        self._lock = threading.Lock()

    def observe(self, served: Served, pixels: np.ndarray, probability_real: float) -> None:
        """One answered image: (32, 32, 3) uint8 as normalised, and its score."""
        if served.detector.reference is None:
            return
        self._seen.put(_Seen(served, pixels, probability_real))

    def collector(self, served: Served | None) -> Collector:
        """The drift of all workers' traffic through the model that is served now."""
        return _Facts(self, served)

    def window(self, served: Served) -> Window:
        """This worker's window for a model; kept in a file where there may be other workers."""
        profile = served.detector.reference
        assert profile is not None
        digest = _digest(served)
        if digest not in self._windows:
            array = empty(profile)
            if folder := _folder():
                file = folder / f"drift-{digest}-{os.getpid()}.npy"
                partial = file.with_suffix(".partial")
                with partial.open("wb") as written:
                    np.save(written, array)
                partial.rename(file)
                array = np.load(file, mmap_mode="r+")
            self._windows[digest] = Window(profile, settings().drift_window_seconds, array)
        return self._windows[digest]

    def _measure(self, seen: list[_Seen]) -> None:
        by_model: dict[str, list[_Seen]] = {}
        for each in seen:
            by_model.setdefault(_digest(each.served), []).append(each)
        rate = settings().drift_images_per_second
        most = int(rate * GATHER_SECONDS) or 1 if rate else len(seen)
        for group in by_model.values():
            scores = np.array([each.probability_real for each in group])
            looked_at = group[:: -(-len(group) // most)]
            measured = features.measure(np.stack([each.pixels for each in looked_at]))
            with self._lock:
                self.window(group[0].served).add({**measured, features.SCORE: scores}, time.time())


class _Facts(Collector):
    """PSI, KS and counts per feature; no distance while there are too few values to tell."""

    def __init__(self, watch: Watch, served: Served | None) -> None:
        self._watch, self._served = watch, served

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Nothing for a model without reference."""
        served = self._served
        if served is None or served.detector.reference is None:
            return
        labels = ["feature", "model_version"]
        psi = GaugeMetricFamily("cifake_drift_psi", "Population stability index of live traffic.", labels=labels)
        ks = GaugeMetricFamily("cifake_drift_ks", "Kolmogorov-Smirnov distance of live traffic.", labels=labels)
        count = GaugeMetricFamily("cifake_drift_window_count", "Values in the drift window.", labels=labels)
        try:
            with self._watch._lock:
                moved = self._watch.window(served).moved(time.time(), _others(served))
        except OSError as exc:  # a full or broken disk must not take the other figures away
            logger.warning("drift cannot be told: %s", exc)
            return
        for name, feature in moved.items():
            key = [name, str(served.version.version)]
            count.add_metric(key, feature.values)
            if feature.values >= settings().drift_minimum:
                psi.add_metric(key, feature.psi)
                ks.add_metric(key, feature.ks)
        yield from (count, psi, ks)


def _folder() -> Path | None:
    folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    return Path(folder) if folder else None


def _digest(served: Served) -> str:
    return served.detector.info.sha256[REFERENCE][:16]


def _others(served: Served) -> Iterator[np.ndarray]:
    """Windows of other workers, living or dead."""
    folder = _folder()
    if folder is None:
        return
    for file in folder.glob(f"drift-{_digest(served)}-*.npy"):
        if not file.stem.endswith(f"-{os.getpid()}"):
            yield np.load(file, mmap_mode="r")


watch = Watch()
