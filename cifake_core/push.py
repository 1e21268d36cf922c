"""Figures of a step that ends before Prometheus could scrape it: pushed to a push gateway, when there is one."""

from __future__ import annotations

import http.client
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

from cifake_core.settings import settings

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

log = logging.getLogger(__name__)
SECONDS = 5.0


def push(job: str, registry: CollectorRegistry, grouping: Mapping[str, str] | None = None) -> bool:
    """Replace what the job, in this grouping, pushed before by these figures; True when the gateway took them.

    A gateway that does not answer is said in the log and fails nothing: figures are not worth a step.
    """
    from prometheus_client import push_to_gateway

    gateway = settings().push_gateway
    if not gateway:
        return False
    try:
        push_to_gateway(gateway, job=job, registry=registry, grouping_key=dict(grouping or {}), timeout=SECONDS)
    except (OSError, http.client.HTTPException, ValueError) as exc:
        log.warning("%s: the push gateway took no figures (%s)", gateway, exc)
        return False
    return True
