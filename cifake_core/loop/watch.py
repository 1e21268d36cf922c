"""Read the figures, decide whether they ask for a training, and keep the decision with the numbers behind it.

A decision is an object `monitoring/decisions/TIME.json` in the store, and a run in MLflow.
"""

from __future__ import annotations

import http.client
import json
import math
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from cifake_core import yaml_files
from cifake_core.errors import DatasetError, ServiceError
from cifake_core.mlflow_client import client, experiment_id, registry_errors
from cifake_core.settings import settings
from cifake_core.storage import Store

POLICY = Path(__file__).with_name("policy.yaml")
FOLDER = "monitoring/decisions"
SECONDS = 20.0
_SERVED = 'and on (model_version) label_replace(cifake_model_info == 1, "model_version", "$1", "version", "(.*)")'
# Figure → what to ask Prometheus; a figure without an answer is unknown, which asks for nothing.
QUERIES = {
    "score_psi": 'max(cifake_drift_psi{feature="score"})',
    "feature_psi": 'max(cifake_drift_psi{feature!="score"})',
    "accuracy_upper": f"max(cifake_feedback_accuracy_upper {_SERVED})",
    "feedback_rows": f"sum(cifake_feedback_total {_SERVED})",
}


class Policy(BaseModel, frozen=True):
    """Thresholds, cool-down and cap."""

    model_config = ConfigDict(extra="forbid")

    version: int
    score_psi: float
    feature_psi: float
    accuracy_upper: float
    feedback_rows: int
    cool_down_hours: float
    most_per_week: int


class Past(BaseModel, frozen=True):
    """Of a decision, what later ones look at; another version of cifake may have said more of it, or less."""

    at: datetime
    action: Literal["train", "wait", "none"]  # wait: asked for, but held back
    run: str = ""  # what asked for it: the same asks twice, and is told the same


class Decision(Past, frozen=True):
    """What the figures asked for, and what came of it."""

    reasons: list[str]
    figures: dict[str, float | None]
    policy: Policy


def load_policy(file: Path = POLICY) -> Policy:
    """The policy of a YAML file.

    Raises:
        ConfigurationError: not such a file.
    """
    return yaml_files.parse(file, Policy)


def read_figures(url: str | None = None) -> dict[str, float | None]:
    """The figures of QUERIES as Prometheus has them now; None for what it does not know.

    Raises:
        ServiceError: Prometheus does not answer.
    """
    base = (url or settings().prometheus_url).rstrip("/")
    return {name: _value(base, query) for name, query in QUERIES.items()}


def _value(base: str, query: str) -> float | None:
    address = f"{base}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    try:
        with urllib.request.urlopen(address, timeout=SECONDS) as answer:
            found = json.load(answer)["data"]["result"]
    except (OSError, http.client.HTTPException, ValueError, KeyError) as exc:
        raise ServiceError(f"{base}: Prometheus does not answer ({exc}); is it up? (`make up-monitoring`)") from exc
    value = float(found[0]["value"][1]) if found else math.nan
    return None if math.isnan(value) else value


def decide(
    figures: dict[str, float | None],
    policy: Policy,
    before: Sequence[Past],
    now: datetime | None = None,
    run: str = "",
) -> Decision:
    """What these figures ask for under a policy, after earlier decisions (any order)."""
    now = now or datetime.now(UTC)
    asked = [
        f"{text} {value:.3f} is over {limit:g}"
        for name, text, limit in (
            ("score_psi", "PSI of the score", policy.score_psi),
            ("feature_psi", "PSI of a feature", policy.feature_psi),
        )
        if (value := figures.get(name)) is not None and value > limit
    ]
    accuracy, rows = figures.get("accuracy_upper"), figures.get("feedback_rows") or 0
    if accuracy is not None and rows >= policy.feedback_rows and accuracy < policy.accuracy_upper:
        asked.append(f"by {rows:.0f} true labels accuracy is {accuracy:.3f} at most, under {policy.accuracy_upper:g}")
    trained = sorted(each.at for each in before if each.action == "train")
    held = []
    if trained and now - trained[-1] < timedelta(hours=policy.cool_down_hours):
        held.append(f"a training was triggered at {trained[-1]:%Y-%m-%d %H:%M}, under {policy.cool_down_hours:g} h ago")
    if (number := sum(now - each < timedelta(days=7) for each in trained)) >= policy.most_per_week:
        held.append(f"{number} trainings were triggered within a week; at most {policy.most_per_week} are allowed")
    action: Literal["train", "wait", "none"] = "none" if not asked else "wait" if held else "train"
    reasons = asked + (held if asked else [])
    return Decision(at=now, action=action, run=run, reasons=reasons, figures=figures, policy=policy)


def watch(policy: Path | None = None, prometheus: str | None = None, run: str = "") -> Decision:
    """Read, decide by `policy` (default: CIFAKE_WATCH_POLICY, or POLICY), keep.

    Args:
        run: who asks; when it asks again, after it was killed, it is told what was decided the first time.

    Raises:
        ServiceError, ConfigurationError, StoreError; RegistryError when MLflow does not take the decision.
    """
    store = Store()
    before = decisions(store)
    for name, each in before.items():
        if run and each.run == run:
            return Decision.model_validate_json(store.read(f"{FOLDER}/{name}"))
    rules = load_policy(policy or settings().watch_policy or POLICY)
    decision = decide(read_figures(prometheus), rules, list(before.values()), run=run)
    _log(decision)
    # Last: a decision that is in the store is one that holds the next ones back.
    store.write(f"{FOLDER}/{decision.at:%Y%m%dT%H%M%S.%fZ}.json", decision.model_dump_json(indent=2).encode())
    return decision


def decisions(store: Store) -> dict[str, Past]:
    """The decisions of the last eight days by file, oldest first: all that a cool-down or cap looks at.

    Raises:
        DatasetError: a file is damaged.
    """
    oldest = f"{datetime.now(UTC) - timedelta(days=8):%Y%m%dT%H%M%S}"
    names = [name for name in store.list(FOLDER) if name.endswith(".json") and name >= oldest]
    try:
        return {name: Past.model_validate_json(store.read(f"{FOLDER}/{name}")) for name in names}
    except ValidationError as exc:
        raise DatasetError(f"{store.url_of(FOLDER)}: a decision cannot be read; remove its file ({exc.title})") from exc


def _log(decision: Decision) -> None:
    from mlflow.entities import Metric, Param, RunTag

    with registry_errors("log a decision"):
        api, now = client(), int(decision.at.timestamp() * 1000)
        run = api.create_run(experiment_id(), tags={"kind": "monitoring"}, run_name=f"monitoring-{decision.action}")
        metrics = [Metric(name, value, now, 0) for name, value in decision.figures.items() if value is not None]
        params = [Param(name, str(value)) for name, value in decision.policy.model_dump().items()]
        tags = [RunTag("action", decision.action), RunTag("reasons", "; ".join(decision.reasons))]
        api.log_batch(run.info.run_id, metrics=metrics, params=params, tags=tags)
        api.set_terminated(run.info.run_id)
