"""A validation's figures for Prometheus."""

from __future__ import annotations

from cifake_core.storage import Store
from cifake_core.validation.result import ValidationResult


def exposition(result: ValidationResult) -> bytes:
    """The figures in Prometheus' text format, as the textfile collector and the push gateway take them."""
    from prometheus_client import CollectorRegistry, Gauge, generate_latest

    registry = CollectorRegistry()

    def gauge(name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"cifake_validation_{name}", text, ["dataset_version", *labels], registry=registry)

    version = result.checked_version
    gauge("success", "1 when the dataset version was accepted, 0 when refused.").labels(version).set(result.success)
    gauge("rows", "Rows checked.").labels(version).set(result.rows)
    failed = gauge("failed_expectations", "Failed expectations.", "suite", "severity")
    for suite, counts in result.suites.items():
        failed.labels(version, suite, "critical").set(counts.critical)
        failed.labels(version, suite, "warning").set(counts.warnings)
    quarantined = gauge("quarantined_rows", "Rows set aside, by the expectation they failed.", "reason")
    for reason, rows in result.quarantined.items():
        quarantined.labels(version, reason).set(rows)
    auc = gauge(
        "shortcut_auc", "Cross-validated AUC of the label from things that are not the picture.", "audit", "part"
    )
    for audit in result.shortcuts:
        if audit.auc is not None:
            auc.labels(version, audit.audit, audit.part).set(audit.auc)
    return generate_latest(registry)


def publish(store: Store, result: ValidationResult) -> None:
    """Keep the figures beside the result."""
    store.write(f"validation/{result.dataset_version}/metrics.prom", exposition(result))
