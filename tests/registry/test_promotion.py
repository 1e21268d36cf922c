"""Promotion: who becomes champion, what is recorded, and what stops it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cifake_core.errors import CheckFailedError, ConfigurationError, NotRegisteredError, RegistryError
from cifake_core.mlflow_client import client
from cifake_core.registry import history, promotion
from cifake_core.registry.artifacts import resolve
from cifake_core.registry.promotion import promote, rollback
from cifake_core.registry.verify import shown_history, verify
from cifake_core.settings import MODEL_NAME
from tests.registry.conftest import Field
from tests.registry.voting import share

MakeField = Callable[..., Field]


@pytest.fixture(autouse=True)
def _any_heatmap_will_do(policy: Path) -> None:
    """Judge by all but heatmaps: those of networks that vote by the image's number explain nothing."""
    text = policy.read_text()
    assert "tolerance: 0.05 " in text
    policy.write_text(text.replace("tolerance: 0.05 ", "tolerance: 2 "))


def _aliases() -> dict[str, int]:
    return {alias: int(v) for alias, v in client().get_registered_model(MODEL_NAME).aliases.items()}


def test_the_first_champion_needs_only_the_floor_and_evidence(field: MakeField) -> None:
    f = field(share(0.8))
    answer = promote("1", reason="the first")
    assert answer["promoted"], answer["reasons"]
    assert answer["champion"] == 1
    champion = resolve("champion")
    assert champion.version == 1
    assert champion.tags["decision"] == "promoted"
    assert champion.tags["decision_reason"] == "the first"
    assert champion.tags["decided_by"]
    assert f.store.exists("gates/cifake-detector-1/first/gate.html")
    artefacts = {a.path for a in client().list_artifacts(champion.run_id, "gate/first")}
    assert artefacts == {"gate/first/gate.html", "gate/first/gate.json"}


def test_a_clearly_better_version_becomes_champion_and_the_old_one_previous(field: MakeField) -> None:
    field(share(0.8), share(0.95))
    promote("1")
    answer = promote("2")
    assert answer["promoted"], answer["reasons"]
    assert _aliases() == {"champion": 2, "previous": 1}


def test_promoting_the_champion_again_changes_nothing(field: MakeField) -> None:
    f = field(share(0.8))
    promote("1")
    answer = promote("champion")
    assert answer["promoted"]
    assert history.numbers(f.store) == [1]


def test_a_losing_version_becomes_challenger_and_is_told_why(field: MakeField) -> None:
    field(share(0.95), share(0.8))
    promote("1")
    answer = promote("2")
    assert not answer["promoted"]
    assert answer["champion"] == 1
    assert any("points" in why for why in answer["reasons"])
    assert _aliases() == {"champion": 1, "challenger": 2}
    assert resolve("2").tags["decision"] == "refused"


def test_a_challenger_that_wins_later_leaves_its_alias(field: MakeField) -> None:
    f = field(share(0.9), share(0.9))
    promote("1")
    promote("2")
    assert _aliases()["challenger"] == 2
    promote("2", force=True, reason="same accuracy, smaller")
    assert _aliases() == {"champion": 2, "previous": 1}
    assert history.read(f.store, 3).kind == "forced"
    assert "better-than-champion" in history.read(f.store, 3).failed


def test_force_without_a_reason_is_refused(field: MakeField) -> None:
    with pytest.raises(ConfigurationError, match="--reason"):
        promote("1", force=True)


def test_rollback_goes_to_previous_and_back(field: MakeField) -> None:
    field(share(0.8), share(0.95))
    promote("1")
    promote("2")
    assert rollback(reason="false alarms") == {"champion": 1, "rolled_back": True, "from": 2}
    assert _aliases() == {"champion": 1, "previous": 2}
    assert rollback(only_from=2) == {"champion": 1, "rolled_back": False, "from": 1}
    assert rollback(only_from=1)["champion"] == 2
    assert [d["kind"] for d in shown_history()["decisions"]] == ["promoted", "promoted", "rolled back", "rolled back"]


def test_a_champion_whose_alias_was_moved_by_hand_is_judged_when_asked_for(field: MakeField) -> None:
    field(share(0.9), share(0.8), share(0.97))
    promote("1")
    client().set_registered_model_alias("cifake-detector", "champion", "2")
    refused = promote("2")
    assert (refused["promoted"], refused["champion"]) == (False, 2)
    assert _aliases()["champion"] == 2  # nobody moved it back: that is `rollback`
    client().set_registered_model_alias("cifake-detector", "champion", "3")
    assert promote("3")["promoted"]
    assert _aliases() == {"champion": 3, "previous": 1}
    assert promote("3")["reasons"] == ["version 3 is the champion already"]


def test_rollback_to_a_version_that_was_never_champion_is_refused(field: MakeField) -> None:
    field(share(0.95), share(0.8))
    promote("1")
    with pytest.raises(RegistryError, match="never champion"):
        rollback(to=2)
    with pytest.raises(RegistryError, match="nothing to go back to"):
        rollback()
    with pytest.raises(NotRegisteredError, match="version 9"):
        rollback(to=9)


def test_a_version_judged_against_a_champion_that_was_replaced_is_told_to_try_again(
    field: MakeField, monkeypatch: pytest.MonkeyPatch
) -> None:
    f = field(share(0.8), share(0.88), share(0.97))
    promote("1")
    append = history.append

    def someone_was_quicker(*arguments: object) -> bool:
        monkeypatch.setattr(history, "append", append)
        assert promote("3")["promoted"]
        return append(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(history, "append", someone_was_quicker)
    with pytest.raises(CheckFailedError, match="another version became champion") as caught:
        promote("2")
    assert caught.value.result["promoted"] is False
    assert _aliases() == {"champion": 3, "previous": 1}
    assert not promote("2")["promoted"]
    assert history.undone(f.store) == []


def test_a_refusal_meanwhile_does_not_stop_a_promotion(field: MakeField, monkeypatch: pytest.MonkeyPatch) -> None:
    field(share(0.8), share(0.95), share(0.8))
    promote("1")
    append = history.append

    def someone_lost_meanwhile(*arguments: object) -> bool:
        monkeypatch.setattr(history, "append", append)
        assert not promote("3")["promoted"]
        return append(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(history, "append", someone_lost_meanwhile)
    assert promote("2")["promoted"]
    assert _aliases() == {"champion": 2, "previous": 1, "challenger": 3}


def test_an_overtaken_process_does_not_bring_its_champion_back(field: MakeField) -> None:
    f = field(share(0.8), share(0.88), share(0.97))
    for version in "123":
        promote(version)
    promotion._carry_out(f.store, 2)  # a process that slept since decision 2
    assert _aliases() == {"champion": 3, "previous": 2}


def test_a_decision_that_was_not_carried_out_is_by_the_next_command(field: MakeField) -> None:
    f = field(share(0.8), share(0.95))
    promote("1")
    promote("2")
    f.store.delete(f"{history.FOLDER}/00000002.done")
    api = client()
    api.set_registered_model_alias(MODEL_NAME, "champion", "1")
    api.delete_registered_model_alias(MODEL_NAME, "previous")
    with pytest.raises(CheckFailedError, match="not carried out"):
        verify()
    assert promote("2")["promoted"]
    assert _aliases() == {"champion": 2, "previous": 1}
    assert verify()["problems"] == []


def test_without_an_alias_the_last_recorded_champion_is_the_one_to_beat(field: MakeField) -> None:
    field(share(0.95), share(0.8))
    promote("1")
    client().delete_registered_model_alias(MODEL_NAME, "champion")
    with pytest.raises(CheckFailedError, match="alias is gone"):
        verify()
    answer = promote("2")
    assert not answer["promoted"]
    assert answer["champion"] == 1
    assert promote("1")["promoted"] is False  # no better than itself: the way back is a rollback
    assert rollback(to=1)["rolled_back"]
    assert verify()["champion"] == 1


def test_an_alias_moved_by_hand_is_reported(field: MakeField) -> None:
    field(share(0.95), share(0.8))
    promote("1")
    assert verify()["problems"] == []
    client().set_registered_model_alias(MODEL_NAME, "champion", "2")
    with pytest.raises(CheckFailedError, match="version 2 is champion without gate evidence"):
        verify()
    assert rollback()["champion"] == 1  # undoes the move; nothing was `previous`
    assert verify()["problems"] == []


def test_verify_sees_a_lost_gate_report_and_changed_artefacts(field: MakeField) -> None:
    f = field(share(0.95))
    promote("1")
    f.store.delete("gates/cifake-detector-1/first/gate.html")
    with pytest.raises(CheckFailedError, match=r"gate\.html is gone"):
        verify()
    api = client()
    f.add(0, "other", gain=20)
    api.log_artifacts(resolve("1").run_id, str(f.folder / "other"), "detector")
    api.delete_model_version_tag(MODEL_NAME, "1", "bundle_sha256")
    with pytest.raises(CheckFailedError, match="is not the one that was judged"):
        verify()


def test_verify_says_that_a_champion_was_forced(field: MakeField) -> None:
    field(share(0.55))
    assert not promote("1")["promoted"]
    promote("1", force=True, reason="demonstration")
    assert "forced past accuracy-floor" in verify()["notes"][0]
