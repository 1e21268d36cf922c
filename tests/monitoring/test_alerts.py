"""Every alert leads somewhere, and is known to fire and to keep quiet."""

from __future__ import annotations

import importlib.util
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.conftest import CHECKOUT

PROMETHEUS = CHECKOUT / "deploy/prometheus"
ALERTS = {
    rule["alert"]: rule
    for group in yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
}


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_has_a_severity_a_summary_and_a_runbook_that_names_it(name):
    rule = ALERTS[name]
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert rule["annotations"]["summary"]
    page = (CHECKOUT / rule["annotations"]["runbook_url"]).read_text()
    assert name in page.splitlines()[0]
    assert "## Look" in page
    assert "## Do" in page


def test_every_runbook_belongs_to_an_alert_and_its_links_lead_somewhere():
    folder = CHECKOUT / "docs/runbooks"
    linked = {CHECKOUT / rule["annotations"]["runbook_url"] for rule in ALERTS.values()}
    assert set(folder.glob("*.md")) == linked
    for page in linked:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_alert_has_a_case_that_fires_and_one_that_does_not():
    fires, quiet = set(), set()
    for file in PROMETHEUS.glob("tests/*.yml"):
        for case in yaml.safe_load(file.read_text())["tests"]:
            for check in case.get("alert_rule_test", []):
                (fires if check["exp_alerts"] else quiet).add(check["alertname"])
    assert fires == quiet == set(ALERTS)


@pytest.mark.parametrize(
    "command",
    [
        ("promtool", "check", "rules", "--lint-fatal", "recording.yml", "alerts.yml"),
        ("promtool", "test", "rules", "tests/service.yml", "tests/model.yml"),
        ("promtool", "check", "config", "compose.yml"),
        ("amtool", "check-config", "../alertmanager/compose.yml"),
    ],
    ids=lambda command: " ".join(command[:3]),
)
def test_prometheus_own_tools_find_nothing_wrong(prometheus_tools: Path, command: tuple[str, ...]):
    done = subprocess.run([prometheus_tools / command[0], *command[1:]], cwd=PROMETHEUS, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_operators_rules_are_those_that_compose_uses():
    path = PROMETHEUS / "render.py"
    spec = importlib.util.spec_from_file_location("render_rules", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.TARGET.read_text() == module.text(), "run python deploy/prometheus/render.py"
    rules, routes = yaml.safe_load_all(module.text())
    assert {r["alert"] for g in rules["spec"]["groups"] for r in g["rules"] if "alert" in r} == set(ALERTS)
    assert len(routes["spec"]["inhibitRules"]) == 4
    names = [group["name"] for group in rules["spec"]["groups"]]
    assert len(names) == len(set(names))
