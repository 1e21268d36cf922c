"""What DAGs tell each other: a dataset version that passed validation, and a new champion.

The producing task says which version in the event's `extra`; `told` reads it in the DAG that the event started.
"""

from __future__ import annotations

from typing import Any

from airflow.sdk import Asset, task
from airflow.sdk.exceptions import AirflowSkipException

DATASET = Asset("cifake_dataset", uri="cifake://dataset")
CHAMPION = Asset("cifake_champion", uri="cifake://champion")


def told(events: Any, asset: Asset, key: str) -> Any:
    """What the latest of the events that started this run says under `key`; None when there is none of this asset."""
    said = list(events[asset]) if asset in events else []
    return said[-1].extra.get(key) if said else None


@task(outlets=[CHAMPION], doc_md="Tells the DAGs that wait for a new champion; skipped when the gate refused it.")
def announce(promoted: bool, champion: int | None, *, outlet_events: Any = None) -> None:
    """Emit the champion asset, when there is a new champion."""
    if not promoted:
        raise AirflowSkipException(f"not promoted; the champion stays version {champion}")
    outlet_events[CHAMPION].extra = {"version": champion}
