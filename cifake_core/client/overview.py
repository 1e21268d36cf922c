"""Everything at a glance: dataset versions, latest runs, model versions and aliases, the service. Never raises."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cifake_core.errors import CifakeError
from cifake_core.settings import EXPERIMENT, settings

RUNS = 5


def overview() -> dict[str, Any]:
    """Each part, or `{"problem": why}` in its place when that part is down."""
    return {
        "home": str(settings().home),
        "store": settings().store,
        "tracking_uri": settings().tracking_uri,
        "datasets": _part(_datasets),
        "runs": _part(_runs),
        "models": _part(_models),
        "service": _part(_service),
    }


def _part(look: Callable[[], Any]) -> Any:
    try:
        return look()
    except CifakeError as exc:
        return {"problem": str(exc)}
    except ImportError as exc:
        return {"problem": f"not installed in this environment ({exc.name})"}
    except Exception as exc:
        logging.getLogger(__name__).debug("a part of the status is down", exc_info=True)
        return {"problem": f"{type(exc).__name__}: {str(exc).splitlines()[0] if str(exc) else ''}"}


def _datasets() -> list[dict[str, Any]]:
    from cifake_core.images import dataset
    from cifake_core.storage import Store

    store = Store()
    made = []
    for version in dataset.versions(store):
        manifest = dataset.load(store, version)
        made.append({"version": version, "rows": manifest.rows, "counts": manifest.counts, "sources": manifest.sources})
    return made


def _registry_is_empty() -> bool:
    """No database yet: looking at it would make one."""
    kind, _, file = settings().tracking_uri.partition(":///")
    return kind == "sqlite" and not Path(file).exists()


def _quick_client() -> Any:
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    from cifake_core.mlflow_client import client

    return client()


def _runs() -> list[dict[str, Any]]:
    if _registry_is_empty():
        return []
    from cifake_core.mlflow_client import registry_errors

    with registry_errors("list the runs"):
        api = _quick_client()
        experiment = api.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            return []
        found = api.search_runs([experiment.experiment_id], max_results=RUNS, order_by=["attributes.start_time DESC"])
    return [
        {
            "run_id": run.info.run_id,
            "name": run.info.run_name,
            "status": run.info.status,
            "topology": run.data.params.get("topology"),
            "dataset_version": run.data.tags.get("dataset_version"),
            "accuracy": next(
                (run.data.metrics[k] for k in ("test_accuracy", "accuracy") if k in run.data.metrics), None
            ),
        }
        for run in found
    ]


def _models() -> list[dict[str, Any]]:
    if _registry_is_empty():
        return []
    _quick_client()
    from cifake_core.registry.artifacts import versions

    return [v.model_dump(include={"version", "run_id", "dataset_version", "aliases"}) for v in versions()]


def _service() -> dict[str, Any]:
    from cifake_core.client.remote import DetectorClient

    with DetectorClient(timeout=3) as service:
        return {"url": service.url, **service.status().model_dump(mode="json")}


def render(status: dict[str, Any]) -> str:
    """The overview for people."""
    lines = [f"home      {status['home']}", f"store     {status['store']}", f"registry  {status['tracking_uri']}", ""]
    lines += _section("Datasets", status["datasets"], "none yet: cifake data build", _dataset_line)
    lines += _section("Latest runs", status["runs"], "none yet: cifake train", _run_line)
    lines += _section("Models", status["models"], "none yet: cifake train", _model_line)
    lines += _section("Service", status["service"], "", None)
    return "\n".join(lines).rstrip()


def _section(title: str, part: Any, empty: str, line: Callable[[dict[str, Any]], str] | None) -> list[str]:
    if isinstance(part, dict) and part.get("problem") and "ready" not in part:
        body = [part["problem"]]
    elif line is None:
        body = [_service_line(part)]
    else:
        body = [line(each) for each in part] or [empty]
    return [title, *(f"  {each}" for each in body), ""]


def _dataset_line(each: dict[str, Any]) -> str:
    counts = ", ".join(f"{split} {sum(labels.values())}" for split, labels in each["counts"].items())
    return f"{each['version']}  {each['rows']} rows ({counts}) from {', '.join(each['sources'])}"


def _run_line(each: dict[str, Any]) -> str:
    accuracy = "" if each["accuracy"] is None else f"  accuracy {each['accuracy']:.4f}"
    return f"{each['run_id'][:8]}  {each['status'].lower():<9} {each['topology'] or each['name']}{accuracy}"


def _model_line(each: dict[str, Any]) -> str:
    aliases = f"  ← {', '.join(each['aliases'])}" if each["aliases"] else ""
    return f"version {each['version']}  dataset {each['dataset_version'] or '–'}{aliases}"


def _service_line(part: dict[str, Any]) -> str:
    if not part["ready"]:
        return f"{part['url']}  not ready: {part['problem'] or 'the model is loading'}"
    note = f"; {part['problem']}" if part["problem"] else ""
    return f"{part['url']}  serves version {part['model']['version']} since {part['since']}{note}"
