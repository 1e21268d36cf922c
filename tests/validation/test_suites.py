"""Users add expectations by editing JSON alone; what cannot be evaluated is refused before any image is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cifake_core.cli import main
from cifake_core.errors import ConfigurationError
from cifake_core.storage import Store
from cifake_core.validation import gate, suites

MINE: dict[str, Any] = {
    "type": "expect_column_quantile_values_to_be_between",
    "kwargs": {"column": "entropy", "quantile_ranges": {"quantiles": [0.5], "value_ranges": [[7.9, 8.0]]}},
    "severity": "warning",
    "description": "Half of all images are nearly noise.",
    "meta": {"name": "mostly_noise"},
}


def _suite(folder: Path, *expectations: dict[str, Any], **changed: Any) -> Path:
    folder.mkdir(exist_ok=True)
    suite = {"name": "mine", "meta": {"table": "images"}, "expectations": list(expectations), **changed}
    (folder / "mine.json").write_text(json.dumps(suite))
    return folder


def _with(**changed: Any) -> dict[str, Any]:
    return {**MINE, **changed}


def test_an_expectation_added_in_json_alone_is_evaluated_and_reported(clean, write, store: Store, tmp_path: Path):
    manifest = write(clean())
    result = gate.validate(store, manifest.version, expectations=_suite(tmp_path / "suites", MINE))
    assert result.success
    assert [f.expectation for f in result.warnings] == ["mine.mostly_noise"]
    page = store.read(f"validation/{manifest.version}/report.html").decode()
    assert "Half of all images are nearly noise." in page


def test_the_same_one_as_critical_refuses_the_version(clean, write, store: Store, tmp_path: Path):
    manifest = write(clean())
    folder = _suite(tmp_path / "suites", _with(severity="critical"))
    assert not gate.validate(store, manifest.version, expectations=folder).success


CONDITION = {"type": "comparison", "column": {"name": "labell"}, "operator": "==", "parameter": "FAKE"}
WRONG: dict[str, tuple[Callable[[Path], Any], str]] = {
    "unknown expectation": (lambda f: _suite(f, _with(type="expect_beauty")), "knows no 'expect_beauty'"),
    "unknown column": (lambda f: _suite(f, _with(kwargs={"column": "sharpness"})), "no column 'sharpness'; it has row"),
    "unknown column in a condition": (
        lambda f: _suite(f, _with(kwargs={**MINE["kwargs"], "row_condition": CONDITION})),
        "no column 'labell'",
    ),
    "unknown table": (lambda f: _suite(f, MINE, meta={"table": "pixels"}), "tables are images, shards"),
    "unknown argument": (lambda f: _suite(f, _with(kwargs={**MINE["kwargs"], "most": 0.9})), "most"),
    "argument missing": (lambda f: _suite(f, _with(kwargs={"column": "entropy"})), "quantile_ranges"),
    "unknown severity": (lambda f: _suite(f, _with(severity="deadly")), "severity"),
    "unknown key": (lambda f: _suite(f, _with(colour="red")), "unknown key 'colour'"),
    "no type": (lambda f: _suite(f, {"kwargs": {}, "meta": {"name": "x"}}), "needs 'type'"),
    "no name": (lambda f: _suite(f, _with(meta={})), "give it a name"),
    "two of one name": (lambda f: _suite(f, MINE, MINE), "second expectation of this name"),
    "two suites of one name": (
        lambda f: (_suite(f, MINE), (f / "other.json").write_text((f / "mine.json").read_text())),
        "two suites are named 'mine'",
    ),
    "quarantine where there are no rows": (
        lambda f: _suite(
            f,
            {
                "type": "expect_column_values_to_be_between",
                "kwargs": {"column": "rows", "min_value": 1},
                "meta": {"name": "some", "quarantine": True},
            },
            meta={"table": "groups"},
        ),
        "`images` only",
    ),
    "broken JSON": (lambda f: (f.mkdir(), (f / "mine.json").write_text('{"name": ')), "not valid JSON"),
    "no suites": (lambda f: f.mkdir(), "no expectation suites"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_suite_is_refused_before_the_dataset_is_looked_for(what: str, tmp_path: Path):
    """There is no such dataset version; the suite's fault is told first, in one line, and nothing is written."""
    make, said = WRONG[what]
    folder = tmp_path / "suites"
    make(folder)
    with pytest.raises(ConfigurationError) as caught:
        gate.validate(Store(), "0123456789abcdef", expectations=folder)
    assert said in str(caught.value)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert Store().list("") == []


def test_the_command_line_says_it_in_one_line_with_exit_code_2(tmp_path: Path):
    folder = _suite(tmp_path / "suites", _with(kwargs={"column": "sharpness"}))
    done = CliRunner().invoke(main, ["validate", "--dataset", "0123456789abcdef", "--expectations", str(folder)])
    assert done.exit_code == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("cifake validate:")]
    assert len(errors) == 1
    assert "sharpness" in errors[0]
    assert "Traceback" not in done.output


def test_the_projects_own_suites_load_and_are_what_the_repository_holds():
    loaded = suites.load()
    assert [s.name for s in loaded] == sorted(file.stem for file in suites.folder().glob("*.json"))
    assert all(e.get("description") for suite in loaded for e in suite.expectations)
