"""Great Expectations suites as JSON: loaded and checked before any work is done, never generated.

A file is a suite: `name`, `meta.table` (which table of `tables.COLUMNS` it speaks about), `expectations` (type, kwargs,
severity, description, `meta.name`; `meta.quarantine` on those whose failing rows can be taken out).
"""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from cifake_core.errors import ConfigurationError
from cifake_core.settings import CHECKOUT, PACKAGE
from cifake_core.validation import tables

Severity = Literal["critical", "warning", "info"]
_SUITE_KEYS = {"name", "meta", "expectations"}
_EXPECTATION_KEYS = {"type", "kwargs", "severity", "description", "meta", "notes"}
_META_KEYS = {"name", "quarantine"}
_COLUMN_KEYS = ("column", "column_A", "column_B", "column_list", "column_set", "sum_columns")


@dataclass(frozen=True)
class Suite:
    """One file of `expectations/`: `expectations` are Great Expectations configurations, checked."""

    name: str
    table: str
    description: str
    expectations: list[dict[str, Any]]


def great_expectations() -> ModuleType:
    """The library, imported without its telemetry, its chatter and its dependencies' deprecation warnings."""
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    logging.getLogger("great_expectations").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import great_expectations as gx
    return gx


def folder() -> Path:
    """Where the suites lie: `expectations/` of a checkout, else the copy in the installed package."""
    return CHECKOUT / "expectations" if CHECKOUT else PACKAGE / "_expectations"


def load(where: Path | None = None) -> list[Suite]:
    """All suites of a folder, checked against the installed Great Expectations and the tables there are.

    Raises:
        ConfigurationError: no suites, broken JSON, an unknown key, table, expectation, argument or column, or two
            expectations of one name.
    """
    where = where or folder()
    files = sorted(where.glob("*.json"))
    if not files:
        raise ConfigurationError(f"{where}: no expectation suites (*.json) there")
    great_expectations()
    found = [_read(file) for file in files]
    names = [suite.name for suite in found]
    for name in names:
        if names.count(name) > 1:
            raise ConfigurationError(f"{where}: two suites are named {name!r}")
    return found


def _read(file: Path) -> Suite:
    try:
        content = json.loads(file.read_text())
    except ValueError as exc:
        raise ConfigurationError(f"{file}: not valid JSON ({exc})") from exc
    _only(content, _SUITE_KEYS, str(file))
    meta = content.get("meta", {})
    _only(meta, {"table", "description"}, f"{file}: meta")
    table = meta.get("table")
    if table not in tables.COLUMNS:
        raise ConfigurationError(f"{file}: meta.table is {table!r}; tables are {', '.join(tables.COLUMNS)}")
    name = content.get("name") or file.stem
    seen: set[str] = set()
    for expectation in content.get("expectations", []):
        _only(expectation, _EXPECTATION_KEYS, f"{file}: an expectation")
        _only(expectation.get("meta", {}), _META_KEYS, f"{file}: {expectation.get('type')}: meta")
        where = f"{file}: {expectation.get('meta', {}).get('name') or expectation.get('type')}"
        _check(expectation, table, where)
        if expectation["meta"]["name"] in seen:
            raise ConfigurationError(f"{where}: a second expectation of this name")
        seen.add(expectation["meta"]["name"])
    return Suite(name, table, meta.get("description", ""), content.get("expectations", []))


def _check(expectation: dict[str, Any], table: str, where: str) -> None:
    from great_expectations.exceptions.exceptions import ExpectationNotFoundError, GreatExpectationsError
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

    meta, kwargs = expectation.get("meta", {}), expectation.get("kwargs", {})
    if not isinstance(kwargs, dict):
        raise ConfigurationError(f"{where}: kwargs is a table of arguments, not {kwargs!r}")
    if not meta.get("name"):
        raise ConfigurationError(f"{where}: give it a name (meta.name), by which reports and gates know it")
    if meta.get("quarantine") and table != "images":
        raise ConfigurationError(f"{where}: quarantine takes out rows, so it works on the table `images` only")
    for column in _columns(kwargs):
        if column not in tables.COLUMNS[table]:
            raise ConfigurationError(
                f"{where}: table `{table}` has no column {column!r}; it has {', '.join(tables.COLUMNS[table])}"
            )
    try:
        ExpectationConfiguration(
            type=expectation["type"], kwargs=kwargs, meta=meta, severity=expectation.get("severity", "critical")
        ).to_domain_obj()
    except KeyError as exc:
        raise ConfigurationError(f"{where}: an expectation needs {exc}") from exc
    except ExpectationNotFoundError as exc:
        raise ConfigurationError(f"{where}: Great Expectations knows no {expectation['type']!r}") from exc
    except (TypeError, ValueError, GreatExpectationsError) as exc:
        raise ConfigurationError(f"{where}: {' '.join(str(exc).split())}") from exc


def _columns(kwargs: dict[str, Any]) -> Iterator[str]:
    for key in _COLUMN_KEYS:
        value = kwargs.get(key)
        yield from [value] if isinstance(value, str) else (value or [])
    yield from _conditioned(kwargs.get("row_condition"))


def _conditioned(condition: Any) -> Iterator[str]:
    if isinstance(condition, dict):
        if isinstance(condition.get("column"), dict):
            yield condition["column"].get("name", "")
        for part in condition.get("conditions", []):
            yield from _conditioned(part)


def _only(content: Any, known: set[str], where: str) -> None:
    if not isinstance(content, dict):
        raise ConfigurationError(f"{where}: expected a JSON object")
    if unknown := sorted(content.keys() - known):
        raise ConfigurationError(f"{where}: unknown key {unknown[0]!r}; known are {', '.join(sorted(known))}")
