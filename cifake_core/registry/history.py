"""The append-only record of decisions. An entry, once written, is the decision; moving aliases only carries it out.

In the store: `registry/MODEL/history/00000001.json`, created exclusively, so that of two writers one loses and
knows it; and `00000001.done` once MLflow's aliases and tags say the same.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from cifake_core.errors import CifakeError
from cifake_core.settings import MODEL_NAME
from cifake_core.storage import Store

FOLDER = f"registry/{MODEL_NAME}/history"
Kind = Literal["promoted", "forced", "refused", "rolled back"]


class Decision(BaseModel, frozen=True):
    """Who decided what about a version, why and when. `champion` is the one it was judged against."""

    model_config = ConfigDict(extra="forbid")

    kind: Kind
    version: int
    run_id: str
    champion: int | None
    actor: str
    reason: str
    at: str
    policy: int | None = None
    dataset_version: str = ""
    bundle_sha256: str = ""
    report_url: str = ""
    failed: list[str] = []

    @property
    def moves_champion(self) -> bool:
        """Does this decision change what is served?"""
        return self.kind != "refused"


def numbers(store: Store) -> list[int]:
    """The numbers of all entries, in order."""
    return [int(name.removesuffix(".json")) for name in store.list(FOLDER) if name.endswith(".json")]


def read(store: Store, number: int) -> Decision:
    """One entry.

    Raises:
        CifakeError: it is damaged, or a newer version of cifake wrote it. StoreError: unreachable.
    """
    name = f"{FOLDER}/{number:08d}.json"
    try:
        return Decision.model_validate_json(store.read(name))
    except ValidationError as exc:
        raise CifakeError(f"{store.url_of(name)}: not a decision that this version of cifake reads") from exc


def append(store: Store, number: int, decision: Decision) -> bool:
    """Write an entry; False when the number is taken, then nothing is written."""
    return store.create(f"{FOLDER}/{number:08d}.json", decision.model_dump_json(indent=2).encode())


def undone(store: Store) -> list[int]:
    """The numbers of entries that were not carried out, in order."""
    names = set(store.list(FOLDER))
    return [int(n[:8]) for n in sorted(names) if n.endswith(".json") and f"{n[:8]}.done" not in names]


def mark_done(store: Store, number: int) -> None:
    """Say that an entry was carried out."""
    store.create(f"{FOLDER}/{number:08d}.done", b"")


def last_move(store: Store) -> tuple[int, Decision] | None:
    """The latest entry that changed the champion."""
    for number in reversed(numbers(store)):
        decision = read(store, number)
        if decision.moves_champion:
            return number, decision
    return None
