"""Move the registry's aliases: `champion` is served, `challenger` waits, `previous` is the way back.

A decision is first appended to the history and then carried out, so it may be killed at any point: the next command
carries out what the history says. Two decisions at once are settled there too: the second to append is told.
"""

from __future__ import annotations

import getpass
import logging
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cifake_core import bundle, pipeline_metrics
from cifake_core.errors import CheckFailedError, ConfigurationError, NotRegisteredError
from cifake_core.evaluation import testset
from cifake_core.mlflow_client import client, registry_errors
from cifake_core.registry import gate_page, history
from cifake_core.registry.artifacts import ModelVersion, fetch, resolve
from cifake_core.registry.evaluate import dataset_of, log_to_run
from cifake_core.registry.gates import Contest, Verdict
from cifake_core.registry.history import Decision
from cifake_core.registry.policy import POLICY, load_policy
from cifake_core.settings import MODEL_NAME, settings
from cifake_core.storage import Store

logger = logging.getLogger("cifake.registry")
MOST_CHARACTERS = 5000  # of a description or a tag of a version in MLflow's tables; SQLite does not mind more


def actor() -> str:
    """Who decides: CIFAKE_ACTOR, else user@host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's uid without a name
        user = "unknown"
    return settings().actor or f"{user}@{socket.gethostname()}"


def find(ref: str) -> ModelVersion | None:
    """As `resolve`, but None when there is no such alias or version."""
    try:
        return resolve(ref)
    except NotRegisteredError:
        return None


def champion(store: Store) -> ModelVersion | None:
    """What a candidate is judged against: the alias, else, if somebody removed that, the last recorded champion."""
    if found := find("champion"):
        return found
    recorded = history.last_move(store)
    return find(str(recorded[1].version)) if recorded else None


def promote(
    version: str,
    reason: str = "",
    dataset_version: str | None = None,
    unseen: str | None = None,
    force: bool = False,
    policy: Path | None = None,
) -> dict[str, Any]:
    """Judge a version against the champion; make it champion if all checks hold, else `challenger`.

    Args:
        version: a version's number or alias.
        dataset_version: whose test split to judge on; the candidate's own by default.
        force: promote although checks fail; needs a reason, and is recorded as forced. A bundle that does not load
            is refused all the same.

    Returns:
        promoted, version, champion (after this), reasons, report_url.

    Raises:
        CheckFailedError: another decision changed the champion meanwhile; nothing was moved.
        RegistryError, ModelError, DatasetError, StoreError, ConfigurationError.
    """
    if force and not reason:
        raise ConfigurationError("--force needs --reason: say why the gate is overruled")
    store = Store()
    settle(store)
    seen = max(history.numbers(store), default=0)
    candidate, served = resolve(version), champion(store)
    reigning = served
    if served and served.version == candidate.version and "champion" in served.aliases:
        decided = history.last_move(store)
        if decided and decided[1].version == candidate.version:
            return _answer(True, candidate, candidate, [f"version {candidate.version} is the champion already"], "")
        # Its alias was moved by hand: judged against the champion of the last decision, as any other.
        reigning = find(str(decided[1].version)) if decided else None
    images = testset.load(store, dataset_of(candidate, dataset_version), unseen)
    contest = Contest(candidate, reigning, images, store, load_policy(policy or POLICY), overruled=force)
    verdict = contest.verdict()
    failed = [check.name for check in verdict.checks if not check.passed]
    report_url = _report(store, candidate, verdict, gate_page.page(verdict, contest))
    force = force and bool(verdict.bundle_sha256)  # what cannot be served is not to be forced either
    passed = verdict.passed or force
    if failed and force:
        logger.warning("FORCED: version %s fails %s; promoting it because: %s", version, ", ".join(failed), reason)
    decision = Decision(
        kind="promoted" if verdict.passed else "forced" if force else "refused",
        version=candidate.version,
        run_id=candidate.run_id,
        champion=reigning.version if reigning else None,
        actor=actor(),
        reason=reason or "; ".join(verdict.reasons or _gains(verdict)),
        at=_now(),
        policy=verdict.policy,
        dataset_version=verdict.dataset_version,
        bundle_sha256=verdict.bundle_sha256,
        report_url=report_url,
        failed=failed,
    )
    _commit(store, seen, decision, served)
    checks = {check.name: check.passed for check in verdict.checks}
    compared = {each.name: (each.candidate, each.champion) for each in verdict.comparisons}
    pipeline_metrics.gate(decision.kind, candidate.version, decision.champion, checks, compared)
    now = candidate if passed else served
    return _answer(passed, candidate, now, verdict.reasons or _gains(verdict), report_url)


def rollback(to: int | None = None, reason: str = "", only_from: int | None = None) -> dict[str, Any]:
    """Make `previous`, or a version that was champion before, champion again; without a gate, in one step.

    When somebody moved the alias by hand, the way back is the champion that was last decided on.

    Args:
        only_from: change nothing unless this version is the champion.

    Raises:
        CheckFailedError: another decision changed the champion meanwhile; nothing was moved.
        NotRegisteredError: nothing to go back to, or `to` was never champion.
        ModelError: the version to go back to does not work.
    """
    store = Store()
    settle(store)
    taken = history.numbers(store)
    reigning = champion(store)
    if only_from is not None and (reigning is None or reigning.version != only_from):
        now = reigning.version if reigning else None
        return {"champion": now, "rolled_back": False, "from": now}
    if to is None:
        recorded = history.last_move(store)
        by_hand = reigning and recorded and recorded[1].version != reigning.version
        target = find(str(recorded[1].version) if recorded and by_hand else "previous")
        if target is None:
            raise NotRegisteredError("nothing to go back to: no version was champion before this one")
    else:
        target = resolve(str(to))
        known = {d.version for d in (history.read(store, n) for n in taken) if d.moves_champion}
        if to not in known and "previous" not in target.aliases:
            raise NotRegisteredError(f"version {to} was never champion; use `cifake promote --version {to}`")
    if reigning and reigning.version == target.version and "champion" in reigning.aliases:
        return {"champion": target.version, "rolled_back": False, "from": target.version}
    folder = fetch(target)
    bundle.Detector(folder, threads=1)
    decision = Decision(
        kind="rolled back",
        version=target.version,
        run_id=target.run_id,
        champion=reigning.version if reigning else None,
        actor=actor(),
        reason=reason or "rollback",
        at=_now(),
        dataset_version=target.dataset_version,
        bundle_sha256=folder.name,
    )
    _commit(store, max(taken, default=0), decision, reigning)
    return {"champion": target.version, "rolled_back": True, "from": decision.champion}


def settle(store: Store) -> None:
    """Carry out the decisions that a killed process left undone."""
    for number in history.undone(store):
        _carry_out(store, number)


def _commit(store: Store, seen: int, decision: Decision, judged_against: ModelVersion | None) -> None:
    """Compare-and-set: append unless the champion changed since `seen`, then carry out."""
    changed = CheckFailedError(
        f"another version became champion while version {decision.version} was being judged; "
        "nothing was moved, run it again to be judged against that one",
        {"promoted": False, "version": decision.version, "champion": None, "reasons": ["champion changed meanwhile"]},
    )
    now = champion(store)
    if (now.version if now else None) != (judged_against.version if judged_against else None):
        raise changed
    number = seen + 1
    while not history.append(store, number, decision):
        if history.read(store, number).moves_champion:
            raise changed
        number += 1
    _carry_out(store, number)


def _carry_out(store: Store, number: int) -> None:
    decision = history.read(store, number)
    name, version = MODEL_NAME, str(decision.version)
    with registry_errors(f"move the aliases for decision {number}"):
        api = client()
        if decision.moves_champion:
            if decision.champion is not None and decision.champion != decision.version:
                api.set_registered_model_alias(name, "previous", str(decision.champion))
            api.set_registered_model_alias(name, "champion", version)
            if str(api.get_registered_model(name).aliases.get("challenger")) == version:
                api.delete_registered_model_alias(name, "challenger")
        elif str(api.get_registered_model(name).aliases.get("champion")) != version:
            api.set_registered_model_alias(name, "challenger", version)
        for tag, value in (
            ("decision", decision.kind),
            ("decision_number", str(number)),
            ("decided_by", decision.actor),
            ("decided_at", decision.at),
            ("decision_reason", _shortened(decision.reason)),
            ("judged_against", "" if decision.champion is None else str(decision.champion)),
            ("gate_report", decision.report_url),
        ):
            api.set_model_version_tag(name, version, tag, value)
        said = f"{decision.kind} by {decision.actor} at {decision.at}: {decision.reason}"
        api.update_model_version(name, version, description=_shortened(said))
    history.mark_done(store, number)
    last = history.last_move(store)
    if decision.moves_champion and last and last[0] > number:  # a newer decision overtook this slow process
        _carry_out(store, last[0])


def _shortened(text: str) -> str:
    """What MLflow's database has room for; the history and the gate's report have all of it."""
    return text if len(text) <= MOST_CHARACTERS else f"{text[: MOST_CHARACTERS - 2]} …"


def _report(store: Store, candidate: ModelVersion, verdict: Verdict, page: str) -> str:
    against = f"against-{verdict.champion}" if verdict.champion else "first"
    folder = f"gates/{candidate.name}-{candidate.version}/{against}"
    files = {"gate.json": verdict.model_dump_json(indent=2), "gate.html": page}
    for name, text in files.items():
        store.write(f"{folder}/{name}", text.encode())
    log_to_run(candidate, f"gate/{against}", files, {})
    return store.url_of(f"{folder}/gate.html")


def _gains(verdict: Verdict) -> list[str]:
    wanted = ("better-than-champion",) if verdict.champion else ("accuracy-floor",)
    return [check.why for check in verdict.checks if check.name in wanted]


def _answer(
    promoted: bool, version: ModelVersion, now: ModelVersion | None, why: list[str], url: str
) -> dict[str, Any]:
    return {
        "promoted": promoted,
        "version": version.version,
        "champion": now.version if now else None,
        "reasons": why,
        "report_url": url,
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
