"""`cifake promote` and `cifake rollback`, killed at any write to MLflow and run again: one champion, all recorded."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cifake_core.errors import CheckFailedError
from cifake_core.mlflow_client import client
from cifake_core.registry import history
from cifake_core.registry.artifacts import resolve
from cifake_core.registry.promotion import promote, rollback
from cifake_core.registry.verify import verify
from cifake_core.settings import MODEL_NAME
from tests.proxy import proxy
from tests.registry.conftest import Field
from tests.registry.voting import share

CIFAKE = str(Path(sys.executable).with_name("cifake"))


def killed_at(request: Callable[[str, str, dict], bool], server: str, *arguments: str) -> None:
    """Run a verb against the server and kill it -9 when it sends that request, which the server never sees."""
    with proxy(server) as between:
        environment = os.environ | {"MLFLOW_TRACKING_URI": between.url}
        running = subprocess.Popen([CIFAKE, *arguments], env=environment, stderr=subprocess.PIPE, text=True)

        def strike(method: str, path: str, body: bytes) -> bool:
            if not request(method, path, json.loads(body or b"{}")):
                return False
            running.send_signal(signal.SIGKILL)
            running.wait(30)
            return True

        between.strike = strike
        _, said = running.communicate(timeout=120)
    assert running.returncode == -signal.SIGKILL, said


def moves(alias: str) -> Callable[[str, str, dict], bool]:
    return lambda method, path, body: method == "POST" and path.endswith("/alias") and body["alias"] == alias


def tags(key: str) -> Callable[[str, str, dict], bool]:
    return lambda _, path, body: path.endswith("model-versions/set-tag") and body["key"] == key


def aliases() -> dict[str, int]:
    return {alias: int(v) for alias, v in client().get_registered_model(MODEL_NAME).aliases.items()}


def leftovers(f: Field) -> list[str]:
    return [str(p) for p in Path(f.store.root).rglob("*") if p.name.endswith(".partial")]


def test_a_promotion_killed_again_and_again_is_finished_by_the_next_command(
    field: Callable[..., Field], policy: Path
) -> None:
    f = field(share(0.8), share(0.95))
    promote("1")
    command = ["promote", "--version", "2", "--reason", "better", "--policy", str(policy)]
    for moment, served in ((moves("previous"), 1), (moves("champion"), 1), (tags("decision"), 2)):
        killed_at(moment, f.server.url, *command)
        assert resolve("champion").version == served
        assert history.undone(f.store) == [2]
        with pytest.raises(CheckFailedError, match="decision 2 was not carried out"):
            verify()

    answer = promote("2")
    assert (answer["promoted"], answer["champion"]) == (True, 2)
    assert aliases() == {"champion": 2, "previous": 1}
    assert [history.read(f.store, n).version for n in history.numbers(f.store)] == [1, 2]
    assert resolve("2").tags["decision_reason"] == "better"
    assert verify()["problems"] == []
    assert leftovers(f) == []


def test_a_promotion_killed_before_it_decided_leaves_no_trace(field: Callable[..., Field], policy: Path) -> None:
    f = field(share(0.8), share(0.95))
    promote("1")
    report = "gates/cifake-detector-2/against-1/gate.html"  # written when all is judged and nothing is decided
    command = ["promote", "--version", "2", "--policy", str(policy)]
    killed_at(lambda *_: f.store.exists(report), f.server.url, *command)
    assert aliases() == {"champion": 1}
    assert history.numbers(f.store) == [1]
    assert verify()["problems"] == []
    assert promote("2")["promoted"]
    assert leftovers(f) == []


def test_a_killed_rollback_is_finished_by_the_next_command(field: Callable[..., Field]) -> None:
    f = field(share(0.8), share(0.95), share(0.7))
    promote("1")
    promote("2")
    killed_at(moves("champion"), f.server.url, "rollback", "--reason", "false alarms")
    assert resolve("champion").version == 2
    assert not promote("3")["promoted"]  # another command: first the rollback, then its own business
    assert aliases() == {"champion": 1, "previous": 2, "challenger": 3}
    assert rollback(to=1)["rolled_back"] is False
    assert verify()["problems"] == []
    assert leftovers(f) == []
