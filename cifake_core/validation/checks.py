"""Suites run over tables by Great Expectations; the rest of the room sees outcomes, never the library's objects."""

from __future__ import annotations

import contextlib
import json
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cifake_core.errors import ConfigurationError
from cifake_core.validation.suites import Severity, Suite, great_expectations

if TYPE_CHECKING:
    import pandas as pd


_DETAIL = {"partial_unexpected_count": 5, "return_unexpected_index_query": False, "include_unexpected_rows": False}


@dataclass(frozen=True)
class Outcome:
    """What one expectation found. `rows` are positions in its table of all that failed; empty for an aggregate."""

    suite: str
    name: str
    table: str
    severity: Severity
    description: str
    success: bool
    quarantine: bool
    checked: int
    unexpected: int
    observed: str
    rows: list[int] = field(default_factory=list, repr=False)

    @property
    def id(self) -> str:
        """`suite.name`, by which reports and tests know it."""
        return f"{self.suite}.{self.name}"


class Checker:
    """One Great Expectations context: runs suites over tables and writes their Data Docs."""

    def __init__(self) -> None:
        self._gx = great_expectations()
        with _quiet():
            self._context = self._gx.get_context(mode="ephemeral")
            self._context.variables.progress_bars = {"globally": False}
            self._context.validation_results_store.serialize = _serialize
            self._source = self._context.data_sources.add_pandas("cifake")

    def run(self, suite: Suite, table: pd.DataFrame) -> list[Outcome]:
        """The outcomes of a suite, in its order.

        Raises:
            ConfigurationError: an expectation cannot be evaluated on this table.
        """
        with _quiet():
            batch = self._source.add_dataframe_asset(suite.name).add_batch_definition_whole_dataframe("all")
            whole = self._context.suites.add(self._suite(suite.name, suite.expectations))
            definition = self._gx.ValidationDefinition(name=suite.name, data=batch, suite=whole)
            frame = {"dataframe": table}
            result = self._context.validation_definitions.add(definition).run(
                batch_parameters=frame, result_format=_DETAIL | {"result_format": "SUMMARY"}
            )
            found = _by_name(result)
            failed = [e for e in suite.expectations if "unexpected_count" in found[_name(e)]["result"]]
            failed = [e for e in failed if not found[_name(e)]["success"]]
            if failed:  # only now are all rows listed: on clean data that would be paid for nothing
                again = batch.get_batch(batch_parameters=frame).validate(
                    self._suite(f"{suite.name} rows", failed), result_format=_DETAIL | {"result_format": "COMPLETE"}
                )
                found |= _by_name(again)
        return [_outcome(suite, e, found[_name(e)]) for e in suite.expectations]

    def _suite(self, name: str, expectations: list[dict[str, Any]]) -> Any:
        return self._gx.ExpectationSuite(name=name, expectations=expectations)

    def write_docs(self, folder: Path) -> None:
        """Great Expectations' own pages about every suite run so far, into an empty folder."""
        store = {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(folder)}
        with _quiet():
            self._context.add_data_docs_site(
                "cifake",
                {
                    "class_name": "SiteBuilder",
                    "store_backend": store,
                    "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
                },
            )
            self._context.build_data_docs(site_names=["cifake"])


def _serialize(result: Any) -> str:
    """The library's own stumbles over the NumPy booleans that its quantile expectation leaves in a result."""
    return json.dumps(result.to_json_dict(), default=lambda value: value.item(), indent=2, sort_keys=True)


def _name(expectation: dict[str, Any]) -> str:
    return str(expectation["meta"]["name"])


def _by_name(result: Any) -> dict[str, dict[str, Any]]:
    return {r.expectation_config.meta["name"]: r.to_json_dict() for r in result.results}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The library's own deprecation warnings are not ours to act on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _outcome(suite: Suite, expectation: dict[str, Any], result: dict[str, Any]) -> Outcome:
    where = f"{suite.name}.{expectation['meta']['name']}"
    if result["exception_info"].get("raised_exception") is not False:
        raise ConfigurationError(f"{where}: cannot be evaluated: {_exception(result['exception_info'])}")
    found = result["result"]
    rows = found.get("unexpected_index_list") or []
    return Outcome(
        suite=suite.name,
        name=expectation["meta"]["name"],
        table=suite.table,
        severity=expectation.get("severity", "critical"),
        description=expectation.get("description", ""),
        success=bool(result["success"]),
        quarantine=bool(expectation["meta"].get("quarantine")),
        checked=int(found.get("element_count") or 0),
        unexpected=int(found.get("unexpected_count") or 0),
        observed=_observed(found),
        rows=[int(row) for row in rows],
    )


def _observed(found: dict[str, Any]) -> str:
    if found.get("observed_value") is not None:
        value = found["observed_value"]
        return f"{value:.4g}" if isinstance(value, float) else str(value)[:200]
    seen: list[str] = []
    for value in found.get("partial_unexpected_list") or []:
        text = f"{value:.4g}" if isinstance(value, float) else str(value)
        if text not in seen:
            seen.append(text)
    return ", ".join(seen)[:200]


def _exception(info: dict[str, Any]) -> str:
    """The message inside either of the two shapes the library gives."""
    if "exception_message" in info:
        return str(info["exception_message"])
    messages = [str(part.get("exception_message")) for part in info.values() if isinstance(part, dict)]
    return re.sub(r"\s+", " ", messages[0]) if messages else "no reason given"
