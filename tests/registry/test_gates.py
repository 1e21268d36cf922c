"""The gate refuses what should not be served, and says why in one sentence each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cifake_core.errors import ConfigurationError, ModelError
from cifake_core.mlflow_client import client
from cifake_core.registry import history
from cifake_core.registry.policy import POLICY, load_policy
from cifake_core.registry.promotion import promote
from cifake_core.registry.ship import import_shipped
from tests.registry import voting
from tests.registry.conftest import Field
from tests.registry.voting import say_validated, share

MakeField = Callable[..., Field]


def _refused(version: str = "2", **options: object) -> list[str]:
    answer = promote(version, **options)  # type: ignore[arg-type]
    assert not answer["promoted"]
    return list(answer["reasons"])


def test_better_overall_but_worse_on_one_slice_is_refused_by_the_slices_name(field: MakeField) -> None:
    almost = share(0.97)
    field(share(0.8), lambda index, label, kind: almost(index, label, kind) and (kind != "ship" or index % 5 < 2))
    promote("1")
    reasons = _refused()
    assert len(reasons) == 1
    assert reasons[0].startswith("class:ship: ")


def test_better_by_chance_is_refused(field: MakeField) -> None:
    field(share(0.9), lambda index, label, kind: share(0.9)(index, label, kind) or index in (8, 21))
    promote("1")
    assert ["chance alone" in why for why in _refused()] == [True]


def test_below_the_floor_is_refused_even_without_a_champion(field: MakeField) -> None:
    field(share(0.55))
    assert any("at least 60.00 %" in why for why in _refused("1"))


def test_a_gain_below_the_minimum_is_refused(field: MakeField, tmp_path: Path, policy: Path) -> None:
    field(share(0.9), share(0.95))
    promote("1")
    strict = tmp_path / "strict.yaml"
    strict.write_text(policy.read_text().replace("minimum_gain: 0.0", "minimum_gain: 0.1"))
    assert ["10.00 points or more" in why for why in _refused(policy=strict)] == [True]


def test_overconfidence_and_false_alarms_are_refused(field: MakeField) -> None:
    f = field(lambda index, label, _kind: label == 0 or index % 3 > 0)
    reasons = " | ".join(_refused("1"))
    assert "calibration error" in reasons
    assert "of REAL is called FAKE" in reasons
    assert f.versions == [1]


def test_data_without_a_validation_result_or_with_a_bad_one_is_refused(field: MakeField) -> None:
    f = field(share(0.9), validated=False)
    assert ["its validation failed" in why for why in _refused("1")] == [True]
    f.store.delete(f"validation/{f.manifest.version}/result.json")
    assert ["run `cifake validate" in why for why in _refused("1")] == [True]
    say_validated(f.store, f.manifest.version)
    assert promote("1")["promoted"]


def test_lineage_that_disagrees_is_refused(field: MakeField) -> None:
    f = field(share(0.9))
    f.server.register(f.folder / "model0", dataset_version="0" * 16)
    say_validated(f.store, "0" * 16)
    reasons = _refused(dataset_version=f.manifest.version)
    assert ["lineage: the bundle says data" in why for why in reasons] == [True]


@pytest.mark.parametrize("changed", ["parity", "explain"])
def test_graphs_that_disagree_are_refused(field: MakeField, changed: str) -> None:
    f = field(share(0.9))
    version = f.add(0, changed, changed=changed)
    (reason,) = _refused(str(version), force=True, reason="in a hurry")  # nothing can serve it: not even by force
    assert "parity examples" in reason or "explanation graph" in reason


def test_a_version_without_graphs_is_refused(field: MakeField, tmp_path: Path) -> None:
    f = field(share(0.9))

    run = client().create_run("0").info.run_id
    client().create_model_version("cifake-detector", f"runs:/{run}/detector", run)
    (reason,) = _refused("2", dataset_version=f.manifest.version)
    assert "no artefact detector/detector.json" in reason


def test_a_broken_champion_is_named_and_may_be_overruled(field: MakeField) -> None:
    f = field(share(0.8), share(0.95))
    promote("1")
    broken = f.add(0, "broken", changed="parity")

    client().set_registered_model_alias("cifake-detector", "champion", str(broken))
    with pytest.raises(ModelError, match=r"champion version 3 cannot be scored.*--force"):
        promote("2")
    assert promote("2", force=True, reason="the champion is broken")["promoted"]


def test_heatmaps_that_became_untrue_are_refused(field: MakeField, policy: Path) -> None:
    f = field(share(0.9), share(0.97))
    promote("1")
    # One mean gradient a channel, as Grad-CAM takes it, says nothing of these models.
    policy.write_text(policy.read_text().replace("method: gradcam", "method: hirescam"))
    astray = f.add(1, "astray", gain=voting.calibrated_gain(share(0.97), 400), changed="gradients")
    (reason,) = _refused(str(astray))
    assert reason.startswith("heatmaps by hirescam score ")
    assert promote("2")["promoted"]


def test_an_unknown_threshold_is_refused(tmp_path: Path) -> None:
    for text, problem in (
        (POLICY.read_text().replace("floor:", "flor:"), "flor"),
        (POLICY.read_text().replace("floor: 0.60", "floor: 60"), "accuracy.floor"),
        (POLICY.read_text().replace("method: gradcam", "method: attention-rollout"), "no method that explains any"),
        ("[", "not a readable YAML file"),
    ):
        (tmp_path / "gates.yaml").write_text(text)
        with pytest.raises(ConfigurationError, match=problem):
            load_policy(tmp_path / "gates.yaml")


def test_a_slice_the_policy_names_must_have_been_measured(field: MakeField, policy: Path) -> None:
    field(share(0.8), share(0.95))
    promote("1")
    policy.write_text(policy.read_text().replace("overrides: {}", "overrides: {'unseen:gan': 0.02}"))
    assert ["not measured: unseen:gan" in why for why in _refused()] == [True]


def test_the_detector_that_ships_is_judged_without_a_lineage_in_this_registry(field: MakeField) -> None:
    f = field(share(0.6))
    number = import_shipped()["version"]
    promote(str(number), dataset_version=f.manifest.version)  # images of a test's make: it may well be refused
    assert not {"lineage", "validated"} & set(history.read(f.store, 1).failed)


def test_reasons_too_long_for_mlflows_tables_are_shortened_there(field: MakeField) -> None:
    f = field(share(0.9))
    reason = "because " * 1000
    promote("1", reason=reason)
    found = client().get_model_version("cifake-detector", "1")
    assert max(len(found.description), len(found.tags["decision_reason"])) <= 5000
    assert history.read(f.store, 1).reason == reason


def test_the_shipped_policy_is_readable() -> None:
    assert load_policy().version >= 1
