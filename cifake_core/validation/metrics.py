"""A validation's figures for Prometheus."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cifake_core.push import push
from cifake_core.storage import Store
from cifake_core.validation.result import ValidationResult

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry


def figures(result: ValidationResult) -> CollectorRegistry:
    """Rows checked and set aside, expectations failed, shortcut AUCs, and whether the version was accepted."""
    from prometheus_client import CollectorRegistry, Gauge

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
    return registry


def publish(store: Store, result: ValidationResult) -> None:
    """Keep the figures beside the result, for the textfile collector, and push them where CIFAKE_PUSH_GATEWAY says."""
    from prometheus_client import generate_latest

    registry = figures(result)
    store.write(f"validation/{result.dataset_version}/metrics.prom", generate_latest(registry))
    push("validate", registry)
