"""Is what is served what was decided? Aliases moved by hand are seen here, not forbidden."""

from __future__ import annotations

from typing import Any

from cifake_core import bundle
from cifake_core.errors import CheckFailedError, ModelError
from cifake_core.registry import history
from cifake_core.registry.artifacts import ModelVersion, fetch
from cifake_core.registry.promotion import find
from cifake_core.settings import MODEL_NAME
from cifake_core.storage import Store


def verify() -> dict[str, Any]:
    """Compare the champion alias, its artefacts and its gate evidence with the history.

    Returns:
        champion, decisions, problems (none), notes (facts that are no fault, such as a forced promotion).

    Raises:
        CheckFailedError: with the same as its result, when there are problems.
        RegistryError, StoreError: unreachable.
    """
    store = Store()
    champion, recorded = find("champion"), history.last_move(store)
    problems = [f"decision {number} was not carried out; any `cifake promote` will" for number in history.undone(store)]
    notes = []
    if champion is None and recorded:
        problems.append(f"no champion: its alias is gone; the last recorded one is version {recorded[1].version}")
    if champion is not None:
        decision = recorded[1] if recorded else None
        if decision is None or decision.version != champion.version:
            last = f"the last recorded one is version {decision.version}" if decision else "there is no record at all"
            problems.append(
                f"version {champion.version} is champion without gate evidence: its alias was moved by hand; {last}. "
                f"`cifake promote --version {champion.version}` judges it, `cifake rollback` goes back"
            )
        else:
            problems += _evidence(store, champion, decision)
            if decision.kind == "forced":
                notes.append(
                    f"version {champion.version} was forced past {', '.join(decision.failed) or 'no failed check'}"
                )
    result = {
        "champion": champion.version if champion else None,
        "decisions": len(history.numbers(store)),
        "problems": problems,
        "notes": notes,
    }
    if problems:
        raise CheckFailedError("; ".join(problems), result)
    return result


def _evidence(store: Store, champion: ModelVersion, decision: history.Decision) -> list[str]:
    problems = []
    if decision.run_id != champion.run_id:
        problems.append(
            f"version {champion.version} is of run {champion.run_id}, the decision was about {decision.run_id}"
        )
    try:
        folder = fetch(champion)
        bundle.Detector(folder, threads=1)
        if folder.name != decision.bundle_sha256:
            problems.append(f"the bundle of version {champion.version} is not the one that was judged")
    except ModelError as exc:
        problems.append(str(exc))
    if decision.report_url:
        folder_url, _, name = decision.report_url.rpartition("/")
        if not Store(folder_url).exists(name):
            problems.append(f"the gate's report {decision.report_url} is gone")
    return problems


def shown_history() -> dict[str, Any]:
    """All decisions, oldest first.

    Raises:
        StoreError: unreachable.
    """
    store = Store()
    entries = [{"number": n, **history.read(store, n).model_dump(mode="json")} for n in history.numbers(store)]
    return {"model": MODEL_NAME, "decisions": entries}
