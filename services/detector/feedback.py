"""What became of verdicts: kept by request id for a while, without the image, so that a true label can be held to it.

Both go to one SQLite database in CIFAKE_HOME, which all workers share. When a verdict goes, what was said of it stays
in the totals alone.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from typing import NamedTuple

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from cifake_core.client.answers import Batch, Feedback, FeedbackReceipt, Served, Verdict
from cifake_core.monitoring.intervals import wilson
from cifake_core.settings import settings
from services.detector.background import GATHER_SECONDS, Background
from services.detector.problems import ProblemError

logger = logging.getLogger("bentoml.cifake.feedback")

PURGE_SECONDS = 600.0
MOST_VERDICTS = 1_000_000  # after a purge; some 130 MB
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
CREATE TABLE IF NOT EXISTS totals (
  model_version INTEGER, truth TEXT, label TEXT, number INTEGER, PRIMARY KEY (model_version, truth, label)
) WITHOUT ROWID;
"""
# Of several about one image the last counts: people correct themselves.
_LAST = "number IN (SELECT MAX(number) FROM feedback GROUP BY request_id, position)"
_COUNTS = f"""
SELECT model_version, truth, label, SUM(number) FROM (
  SELECT model_version, truth, label, COUNT(*) AS number FROM feedback WHERE {_LAST}
  GROUP BY model_version, truth, label
  UNION ALL SELECT model_version, truth, label, number FROM totals
) GROUP BY model_version, truth, label
"""
_SETTLED = "NOT EXISTS (SELECT 1 FROM verdicts AS v WHERE (v.request_id, v.position) = (f.request_id, f.position))"
_SETTLE = f"""
INSERT INTO totals
  SELECT model_version, truth, label, COUNT(*) FROM feedback AS f WHERE {_LAST} AND {_SETTLED}
  GROUP BY model_version, truth, label
  ON CONFLICT DO UPDATE SET number = number + excluded.number
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

    async def feedback(self, given: Feedback) -> FeedbackReceipt:
        """Add the true label of an image that was answered before.

        Raises:
            ProblemError: `unknown_request`, `no_feedback`.
        """
        deadline = time.monotonic() + 3 * GATHER_SECONDS  # the verdict may not have been written yet
        while True:
            try:
                if receipt := await asyncio.to_thread(self._add, given):
                    return receipt
            except (sqlite3.Error, OSError) as exc:
                logger.warning("feedback cannot be kept: %s", exc)
                raise ProblemError("no_feedback", "the label was not kept", {"Retry-After": "5"}) from exc
            if time.monotonic() > deadline:
                raise ProblemError(
                    "unknown_request",
                    f"no verdict under request id {given.request_id!r}, index {given.index}, in the last "
                    f"{settings().feedback_days:g} days of this replica",
                )
            await asyncio.sleep(GATHER_SECONDS / 2)

    def _add(self, given: Feedback) -> FeedbackReceipt | None:
        find = "SELECT model_version, label, probability_real FROM verdicts WHERE request_id = ? AND position = ?"
        with self._open() as database:
            found = database.execute(find, (given.request_id, given.index)).fetchone()
            if not found:
                return None
            database.execute(
                "INSERT INTO feedback (request_id, position, at, truth, model_version, label, probability_real)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (given.request_id, given.index, time.time(), given.label, *found),
            )
        return FeedbackReceipt(
            request_id=given.request_id,
            index=given.index,
            label=given.label,
            verdict=found[1],
            correct=None if found[1] == "UNSURE" else found[1] == given.label,
            model_version=found[0],
        )

    def counts(self) -> list[tuple[int, str, str, int]]:
        """(model version, true label, verdict, how many) of all feedback."""
        if not (settings().home / "feedback.db").exists():
            return []
        with self._open() as database:
            return list(database.execute(_COUNTS))

    def _write(self, said: list[_Said]) -> None:
        self._writer = self._writer or _connect()
        with self._writer as database:
            # Whoever uses an id again must not change what was answered under it.
            database.executemany("INSERT OR IGNORE INTO verdicts VALUES (?, ?, ?, ?, ?, ?)", said)
            if time.monotonic() - self._purged > PURGE_SECONDS:
                self._purge(database)
                self._purged = time.monotonic()

    def _purge(self, database: sqlite3.Connection) -> None:
        oldest = time.time() - 86400 * settings().feedback_days
        database.execute("DELETE FROM verdicts WHERE at < ?", (oldest,))
        beyond = "SELECT at FROM verdicts ORDER BY at DESC LIMIT 1 OFFSET ?"
        database.execute(f"DELETE FROM verdicts WHERE at <= ({beyond})", (MOST_VERDICTS,))
        database.execute(_SETTLE)
        database.execute(f"DELETE FROM feedback AS f WHERE {_SETTLED} OR NOT {_LAST}")

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
        # No counter: a label that is corrected moves from one series to another.
        labels = ["truth", "verdict", "model_version"]
        told = GaugeMetricFamily("cifake_feedback_total", "True labels told.", labels=labels)
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
