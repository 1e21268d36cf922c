"""What became of verdicts: kept by request id for a while, without the image, so that a true label can be held to it.

Both go to one SQLite database in CIFAKE_HOME, which all workers share; feedback rows are only ever added.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from typing import NamedTuple

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from cifake_core.client.answers import Batch, Feedback, FeedbackReceipt, Served, Verdict
from cifake_core.monitoring.intervals import wilson
from cifake_core.settings import settings
from services.detector.background import GATHER_SECONDS, Background
from services.detector.problems import ProblemError

logger = logging.getLogger("bentoml.cifake.feedback")

PURGE_SECONDS = 3600.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS verdicts (
  request_id TEXT, position INTEGER, at REAL, model_version INTEGER, label TEXT, probability_real REAL,
  PRIMARY KEY (request_id, position)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS verdicts_at ON verdicts (at);
CREATE TABLE IF NOT EXISTS feedback (
  number INTEGER PRIMARY KEY AUTOINCREMENT, request_id TEXT, position INTEGER, at REAL, truth TEXT,
  model_version INTEGER, label TEXT, probability_real REAL
);
"""
# Of several about one image the last counts: people correct themselves.
_COUNTS = """
SELECT model_version, truth, label, COUNT(*) FROM feedback
WHERE number IN (SELECT MAX(number) FROM feedback GROUP BY request_id, position)
GROUP BY model_version, truth, label
"""


class _Said(NamedTuple):
    request_id: str
    position: int
    at: float
    model_version: int
    label: str
    probability_real: float


class Verdicts:
    """The verdicts of all workers and what was said of them."""

    def __init__(self) -> None:
        self._background: Background[_Said] = Background("verdicts", self._write)
        self._purged = 0.0
        self._writer: sqlite3.Connection | None = None  # kept: closing the last one makes SQLite tidy up its files

    def remember(self, answer: Served, request_id: str) -> None:
        """Keep an answer's verdicts for later feedback; costs the request a few microseconds."""
        if isinstance(answer, Batch):
            verdicts = [item.verdict for item in answer.results]
        else:
            verdicts = [answer if isinstance(answer, Verdict) else None]
        now = time.time()
        for position, verdict in enumerate(verdicts):
            if verdict is not None:
                label, probability = verdict.label, verdict.probability_real
                self._background.put(_Said(request_id, position, now, answer.model.version, label, probability))

    def feedback(self, given: Feedback) -> FeedbackReceipt:
        """Add the true label of an image that was answered before; blocks for some milliseconds.

        Raises:
            ProblemError: `unknown_request`.
        """
        deadline = time.monotonic() + 3 * GATHER_SECONDS  # the verdict may not have been written yet
        find = "SELECT model_version, label, probability_real FROM verdicts WHERE request_id = ? AND position = ?"
        while True:
            with self._open() as database:
                found = database.execute(find, (given.request_id, given.index)).fetchone()
                if found:
                    row = (given.request_id, given.index, time.time(), given.label, *found)
                    database.execute(
                        "INSERT INTO feedback (request_id, position, at, truth, model_version, label, probability_real)"
                        " VALUES (?, ?, ?, ?, ?, ?, ?)",
                        row,
                    )
                    return FeedbackReceipt(
                        request_id=given.request_id,
                        index=given.index,
                        label=given.label,
                        verdict=found[1],
                        correct=None if found[1] == "UNSURE" else found[1] == given.label,
                        model_version=found[0],
                    )
            if time.monotonic() > deadline:
                raise ProblemError(
                    "unknown_request",
                    f"no verdict under request id {given.request_id!r}, index {given.index}, in the last "
                    f"{settings().feedback_days:g} days of this replica",
                )
            time.sleep(GATHER_SECONDS / 2)

    def counts(self) -> list[tuple[int, str, str, int]]:
        """(model version, true label, verdict, how many) of all feedback."""
        if not (settings().home / "feedback.db").exists():
            return []
        with self._open() as database:
            return list(database.execute(_COUNTS))

    def _write(self, said: list[_Said]) -> None:
        self._writer = self._writer or _connect()
        with self._writer as database:
            database.executemany("INSERT OR REPLACE INTO verdicts VALUES (?, ?, ?, ?, ?, ?)", said)
            if time.monotonic() - self._purged > PURGE_SECONDS:
                oldest = time.time() - 86400 * settings().feedback_days
                database.execute("DELETE FROM verdicts WHERE at < ?", (oldest,))
                self._purged = time.monotonic()

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with closing(_connect()) as database, database:
            yield database


def _connect() -> sqlite3.Connection:
    settings().home.mkdir(parents=True, exist_ok=True)
    database = sqlite3.connect(settings().home / "feedback.db", timeout=10)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = NORMAL")
    database.executescript(_SCHEMA)
    return database


class LiveAccuracy(Collector):
    """Accuracy on what people told the true label of, with its 95 % interval, per model version."""

    def __init__(self, verdicts: Verdicts) -> None:
        self._verdicts = verdicts

    def collect(self) -> Iterable[Metric]:
        """Counts by verdict and truth; shares over those that were decided."""
        try:
            counts = self._verdicts.counts()
        except sqlite3.Error as exc:  # a full or broken disk must not take the other figures away
            logger.warning("feedback cannot be read: %s", exc)
            return
        told = CounterMetricFamily("cifake_feedback", "True labels told.", labels=["truth", "verdict", "model_version"])
        right: Counter[int] = Counter()
        decided: Counter[int] = Counter()
        for version, truth, verdict, number in counts:
            told.add_metric([truth, verdict, str(version)], number)
            if verdict != "UNSURE":
                decided[version] += number
                right[version] += number * (truth == verdict)
        accuracy = GaugeMetricFamily(
            "cifake_feedback_accuracy", "Share of verdicts that proved right.", labels=["model_version"]
        )
        bounds = {
            end: GaugeMetricFamily(
                f"cifake_feedback_accuracy_{end}", f"{end.title()} end of its 95 % interval.", labels=["model_version"]
            )
            for end in ("lower", "upper")
        }
        for version, number in decided.items():
            accuracy.add_metric([str(version)], right[version] / number)
            for family, bound in zip(bounds.values(), wilson(right[version], number), strict=True):
                family.add_metric([str(version)], bound)
        yield from (told, accuracy, *bounds.values())


verdicts = Verdicts()
