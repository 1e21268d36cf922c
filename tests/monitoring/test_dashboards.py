"""Dashboards are what the code says, and ask only for what there is."""

from __future__ import annotations

import importlib.util
import json
import re
import sys

import pytest
import yaml

from tests.conftest import CHECKOUT

GRAFANA = CHECKOUT / "deploy/grafana"


@pytest.fixture(scope="module")
def texts():
    sys.path.insert(0, str(GRAFANA))
    try:
        spec = importlib.util.spec_from_file_location("generate_dashboards", GRAFANA / "generate.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.texts()
    finally:
        sys.path.remove(str(GRAFANA))


def test_the_committed_dashboards_are_what_the_code_makes(texts):
    committed = {file.name: file.read_text() for file in (GRAFANA / "dashboards").glob("*.json")}
    assert committed == texts, "run python deploy/grafana/generate.py"


def test_panels_ask_the_provisioned_source_for_metrics_and_rules_that_exist(texts):
    listed = set(re.findall(r"^\| `(cifake_\w+)`", (CHECKOUT / "docs/metrics.md").read_text(), re.MULTILINE))
    rules = yaml.safe_load((CHECKOUT / "deploy/prometheus/recording.yml").read_text())
    recorded = {rule["record"] for group in rules["groups"] for rule in group["rules"]}
    sources = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yml").read_text())["datasources"]
    for text in texts.values():
        panels = [panel for panel in json.loads(text)["panels"] if panel["type"] != "row"]
        assert panels
        for panel in panels:
            assert panel["datasource"]["uid"] in {source["uid"] for source in sources}
            assert panel["title"]
            for target in panel["targets"]:
                used = set(re.findall(r"\bcifake_\w+", target["expr"]))
                assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in used} <= {
                    re.sub(r"_(bucket|sum|count)$", "", name) for name in listed
                }
                assert set(re.findall(r"\bcifake:[\w:]+", target["expr"])) <= recorded


def test_dashboards_are_provisioned_where_compose_mounts_them():
    provider = yaml.safe_load((GRAFANA / "provisioning/dashboards/cifake.yml").read_text())["providers"][0]
    volumes = yaml.safe_load((CHECKOUT / "deploy/compose.yaml").read_text())["services"]["grafana"]["volumes"]
    assert f"./grafana/dashboards:{provider['options']['path']}:ro" in volumes
