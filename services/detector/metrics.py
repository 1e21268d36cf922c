"""What Prometheus is told. Counts are right under several workers (prometheus-client's multiprocess mode)."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import psutil
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, multiprocess
from prometheus_client import generate_latest as _generate
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from cifake_core.registry.artifacts import ModelVersion

# 0.25 is the latency objective's, see deploy/prometheus/recording.yml.
SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
TENTHS = (*(k / 20 for k in range(1, 20)), 1.0)

requests_total = Counter("cifake_requests", "Requests answered.", ["route", "code"])
request_seconds = Histogram("cifake_request_seconds", "Time from headers to answer.", ["route"], buckets=SECONDS)
stage_seconds = Histogram("cifake_stage_seconds", "Time by stage of a request.", ["stage"], buckets=SECONDS)
predictions_total = Counter("cifake_predictions", "Images classified.", ["label", "model_version"])
probability_real = Histogram("cifake_probability_real", "P(REAL) of classified images.", buckets=TENTHS)
rejected_images_total = Counter("cifake_rejected_images", "Images refused.", ["reason"])
explanations_total = Counter("cifake_explanations", "Explanations made.", ["method"])
explanation_faithfulness = Histogram(
    "cifake_explanation_faithfulness", "Insertion minus deletion AUC of explanations.", ["method"],
    buckets=(-1, -0.5, -0.2, 0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1),
)  # fmt: skip
model_info = Gauge(
    "cifake_model_info", "1 for the model being served.", ["name", "version", "dataset_version", "topology"],
    multiprocess_mode="livemax",
)  # fmt: skip
model_swaps_total = Counter("cifake_model_swaps", "Tries to bring in another champion.", ["outcome"])
queue_depth = Gauge("cifake_queue_depth", "Requests waiting for a free slot.", multiprocess_mode="livesum")
ready = Gauge("cifake_ready", "1 when every worker has a model to answer with.", multiprocess_mode="livemin")
registry_reachable = Gauge(
    "cifake_registry_reachable", "1 when every worker's last look at the registry was answered.",
    multiprocess_mode="livemin",
)  # fmt: skip
model_is_champion = Gauge(
    "cifake_model_is_champion", "0 while a worker serves another version than the alias named when last seen.",
    multiprocess_mode="livemin",
)  # fmt: skip
model_is_champion.set(1)

for _outcome in ("swapped", "cache", "failed"):
    model_swaps_total.labels(_outcome)  # from 0 on: an increase from nothing is none to Prometheus


@cache
def _of_route(route: str, code: str) -> tuple[Counter, Histogram]:
    return requests_total.labels(route, code), request_seconds.labels(route)


def answered(route: str, status: int, seconds: float) -> None:
    """Count a request; `route` is one of a few, never what a stranger wrote."""
    count, duration = _of_route(route, str(status))
    count.inc()
    duration.observe(seconds)


@cache
def of_stage(name: str) -> Histogram:
    """Seconds of one stage of a request: queue, decode, preprocess, model, explain or encode."""
    return stage_seconds.labels(name)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Measure one stage of a request."""
    start = time.perf_counter()
    try:
        yield
    finally:
        of_stage(name).observe(time.perf_counter() - start)


@cache
def _predictions(label: str, model_version: int) -> Counter:
    return predictions_total.labels(label, str(model_version))


def predicted(label: str, probability: float, model_version: int) -> None:
    """Count a verdict."""
    _predictions(label, model_version).inc()
    probability_real.observe(probability)


class ChampionFacts(Collector):
    """What the registry says of its champion; a collector, so that a former champion leaves no series behind."""

    def __init__(self, champion: ModelVersion | None) -> None:
        self._champion = champion

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Nothing before the registry was seen."""
        if self._champion is None:
            return
        version = [str(self._champion.version)]
        if self._champion.created is not None:
            created = GaugeMetricFamily(
                "cifake_champion_created_timestamp_seconds", "When the champion was registered.", labels=["version"]
            )
            created.add_metric(version, self._champion.created)
            yield created
        evidence = GaugeMetricFamily(
            "cifake_champion_gate_evidence", "1 when the champion got there through the gates.", labels=["version"]
        )
        evidence.add_metric(version, self._champion.tags.get("decision") in ("promoted", "rolled back"))
        yield evidence


def exposition(champion: ModelVersion | None, *more: Collector) -> tuple[bytes, str]:
    """All workers' metrics in Prometheus' text format, and its content type."""
    registry = REGISTRY
    if folder := os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        _forget_dead_workers(Path(folder))
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)
    facts = CollectorRegistry()
    for each in (ChampionFacts(champion), *more):
        facts.register(each)
    return _generate(registry) + _generate(facts), CONTENT_TYPE_LATEST


def _forget_dead_workers(folder: Path) -> None:
    """Drop the gauges of workers that were killed; what they counted stays."""
    for pid in {int(file.stem.rsplit("_", 1)[1]) for file in folder.glob("gauge_live*.db")}:
        if not psutil.pid_exists(pid):
            multiprocess.mark_process_dead(pid, folder)
