"""What Prometheus is told. Counts are right under several workers (prometheus-client's multiprocess mode)."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, multiprocess
from prometheus_client import generate_latest as _generate

SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
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


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Measure one stage of a request: queue, decode, preprocess, model, explain or encode."""
    start = time.perf_counter()
    try:
        yield
    finally:
        stage_seconds.labels(name).observe(time.perf_counter() - start)


def exposition() -> tuple[bytes, str]:
    """All workers' metrics in Prometheus' text format, and its content type."""
    registry = REGISTRY
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)
    return _generate(registry), CONTENT_TYPE_LATEST
