"""What a validation says, kept in the store at `validation/VERSION/result.json`."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, ValidationError

from cifake_core.errors import DatasetError
from cifake_core.storage import Store
from cifake_core.validation.suites import Severity


class Failure(BaseModel, frozen=True):
    """A failed expectation: `expectation` is `suite.name`, `unexpected` of `checked` rows of its table failed."""

    model_config = ConfigDict(extra="forbid")

    expectation: str
    severity: Severity
    description: str
    checked: int
    unexpected: int
    observed: str
    examples: list[str] = []


class SuiteResult(BaseModel, frozen=True):
    """How many expectations of a suite were evaluated, and how many failed by severity."""

    model_config = ConfigDict(extra="forbid")

    expectations: int
    critical: int
    warnings: int


class Audit(BaseModel, frozen=True):
    """One row of the shortcut audit; `auc` with its 95 % interval is None where there were too few rows."""

    model_config = ConfigDict(extra="forbid")

    audit: str
    part: str
    rows: int
    auc: float | None
    auc_low: float | None
    auc_high: float | None
    carried_by: str | None


class ValidationResult(BaseModel, frozen=True):
    """The verdict on a dataset version.

    `dataset_version` is the version to train on: the one asked for, or a new one without its quarantined rows; when
    refused (`success` false), the one that was refused.
    """

    model_config = ConfigDict(extra="forbid")

    success: bool
    dataset_version: str
    checked_version: str
    rows: int
    suites: dict[str, SuiteResult]
    failed: list[Failure]
    warnings: list[Failure]
    quarantined: dict[str, int] = {}
    quarantine_url: str | None = None
    shortcuts: list[Audit] = []
    against: str | None = None
    report_url: str
    docs_url: str


def name_of(version: str) -> str:
    """The result's name in the store."""
    return f"validation/{version}/result.json"


def load(store: Store, version: str) -> ValidationResult | None:
    """The result kept for a version, or None when it was never validated.

    Raises:
        DatasetError: what is kept there is not a result that this code reads.
    """
    name = name_of(version)
    if not store.exists(name):
        return None
    try:
        return ValidationResult.model_validate_json(store.read(name))
    except ValidationError as exc:
        raise DatasetError(
            f"{store.url_of(name)}: not a result this version of cifake reads; run `cifake validate` again"
        ) from exc


def keep(store: Store, version: str, result: ValidationResult) -> None:
    """Keep a version's result."""
    store.write(name_of(version), result.model_dump_json(indent=2).encode())
