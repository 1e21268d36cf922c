"""The gate: a dataset version is accepted, accepted without its bad rows as a new version, or refused."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cifake_core.errors import ConfigurationError
from cifake_core.images import dataset
from cifake_core.storage import Store
from cifake_core.validation import metrics, quarantine, result, suites, tables
from cifake_core.validation.checks import Checker, Outcome
from cifake_core.validation.result import Audit, Failure, SuiteResult, ValidationResult
from cifake_core.validation.suites import Suite

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

MAX_QUARANTINE = 0.01
EXAMPLES = 5
ROW_TABLES = ("shards", "images")  # checked first: their bad rows may be taken out before the rest is looked at

load_result = result.load


@dataclass
class Inspection:
    """A version, its tables so far, and what was found in them."""

    manifest: dataset.Manifest
    shards: tables.Shards
    tables: dict[str, pd.DataFrame]
    checker: Checker
    outcomes: list[Outcome]

    def run(self, loaded: list[Suite], names: Collection[str]) -> None:
        """Run the suites of the named tables."""
        for suite in loaded:
            if suite.table in names and suite.table in self.tables:
                log.info("%s: suite %s", self.manifest.version, suite.name)
                self.outcomes += self.checker.run(suite, self.tables[suite.table])

    @property
    def critical(self) -> list[Outcome]:
        """Failures that refuse the version, as far as it was looked at."""
        return [o for o in self.outcomes if not o.success and o.severity == "critical"]


def validate(
    store: Store,
    version: str,
    *,
    against: str | None = None,
    balance: str | None = None,
    max_quarantine: float = MAX_QUARANTINE,
    expectations: Path | None = None,
) -> ValidationResult:
    """Run every suite on a dataset version and keep result, report, Data Docs and metrics in the store.

    Args:
        version: the dataset version to check.
        against: another version to measure drift from.
        balance: one of `balance.BALANCES`: first make the version in which labels are matched so, and check that.
        max_quarantine: largest share of rows that may be taken out, 0–1; above it the whole version is refused.
        expectations: folder of suites; default the project's.

    Returns:
        The result; `success` false is a refusal, else `dataset_version` is the version to train on.

    Raises:
        ConfigurationError: a suite is wrong; told before any image is read.
        DatasetError: no such version, or a shard is not Parquet.
    """
    from cifake_core.validation import balance as balancing
    from cifake_core.validation import features

    if not 0 <= max_quarantine <= 1:
        raise ConfigurationError(f"the largest share of quarantined rows is {max_quarantine}; expected 0 to 1")
    loaded = suites.load(expectations)
    manifest = dataset.load(store, version)
    reference = dataset.load(store, against) if against else None
    if balance:
        manifest = balancing.balance(store, manifest, balance)
    seen = _inspect(store, manifest, loaded)
    bad = quarantine.reasons(seen.outcomes)
    set_aside = None
    if bad:
        set_aside = quarantine.of(seen.shards, bad)
        if len(bad) <= max_quarantine * manifest.rows and all(o.quarantine for o in seen.critical):
            set_aside, cleaned = quarantine.write(store, manifest, seen.shards, bad)
            seen = _inspect(store, cleaned, loaded)
    encoded = seen.shards.images()
    rest = features.of_version(store, reference) if reference else None
    others = {suite.table for suite in loaded} - set(ROW_TABLES)
    seen.tables |= tables.build(others, seen.tables["images"], encoded.__getitem__, rest)
    seen.run(loaded, others)
    return _conclude(store, manifest.version, seen, encoded, set_aside, against)


def _inspect(store: Store, manifest: dataset.Manifest, loaded: list[Suite]) -> Inspection:
    from cifake_core.validation import features

    shards = tables.read_shards(store, manifest)
    images = features.of_version(store, manifest)
    seen = Inspection(manifest, shards, {"shards": shards.facts, "images": images}, Checker(), [])
    seen.run(loaded, ROW_TABLES)
    return seen


def _conclude(
    store: Store,
    checked: str,
    seen: Inspection,
    encoded: list[bytes],
    set_aside: quarantine.Quarantined | None,
    against: str | None,
) -> ValidationResult:
    from cifake_core.validation import report

    version = seen.manifest.version
    failed = [_failure(o, seen.tables[o.table]) for o in seen.outcomes if not o.success]
    taken_out = set_aside is not None and set_aside.url is not None
    verdict = ValidationResult(
        success=not seen.critical,
        dataset_version=version,
        checked_version=checked,
        rows=seen.manifest.rows + (set_aside.rows if set_aside and taken_out else 0),
        suites=_counts(seen.outcomes),
        failed=[f for f in failed if f.severity == "critical"],
        warnings=[f for f in failed if f.severity != "critical"],
        quarantined=set_aside.reasons if set_aside and taken_out else {},
        quarantine_url=set_aside.url if set_aside else None,
        shortcuts=_audits(seen.tables.get("shortcuts")),
        against=against,
        report_url=store.url_of(f"validation/{version}/report.html"),
        docs_url=store.url_of(f"validation/{version}/data_docs/index.html"),
    )
    _publish_docs(store, version, seen.checker)
    page = report.page(verdict, seen.manifest, seen.tables, seen.outcomes, encoded, set_aside)
    store.write(f"validation/{version}/report.html", page.encode())
    metrics.publish(store, verdict)
    if version != checked:
        result.keep(store, checked, verdict.model_copy(update={"success": False}))
    result.keep(store, version, verdict)
    return verdict


def _publish_docs(store: Store, version: str, checker: Checker) -> None:
    name = f"validation/{version}/data_docs"
    with tempfile.TemporaryDirectory() as folder:
        checker.write_docs(Path(folder))
        store.delete(name)
        for file in sorted(Path(folder).rglob("*")):
            if file.is_file():
                store.write(f"{name}/{file.relative_to(folder).as_posix()}", file.read_bytes())


def _counts(outcomes: list[Outcome]) -> dict[str, SuiteResult]:
    counts = {}
    for name in dict.fromkeys(o.suite for o in outcomes):
        part = [o for o in outcomes if o.suite == name]
        critical = sum(not o.success and o.severity == "critical" for o in part)
        warnings = sum(not o.success and o.severity != "critical" for o in part)
        counts[name] = SuiteResult(expectations=len(part), critical=critical, warnings=warnings)
    return counts


def _failure(outcome: Outcome, table: pd.DataFrame) -> Failure:
    return Failure(
        expectation=outcome.id,
        severity=outcome.severity,
        description=outcome.description,
        checked=outcome.checked,
        unexpected=outcome.unexpected,
        observed=outcome.observed,
        examples=[_example(table, row) for row in outcome.rows[:EXAMPLES]],
    )


def _example(table: pd.DataFrame, row: int) -> str:
    """How a person finds the row again."""
    values = table.iloc[row]
    keys = [k for k in ("split", "row", "path", "label", "class", "shard", "audit", "part", "feature") if k in table]
    return " ".join(f"{k}={values[k]}" for k in keys)


def _audits(table: pd.DataFrame | None) -> list[Audit]:
    if table is None:
        return []
    rows = table.drop(columns="offline_sample").astype(object).where(table.notna(), None).to_dict("records")
    return [Audit(**row) for row in rows]
