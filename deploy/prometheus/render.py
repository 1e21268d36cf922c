"""Rules and routes for the Prometheus Operator, from the files that compose uses: `python deploy/prometheus/render.py`.

Writes k8s/components/monitoring/rules.yaml. The webhook's address comes from the secret `alert-webhook`, key `url`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).resolve().parents[1]
TARGET = DEPLOY.parent / "k8s/components/monitoring/rules.yaml"
CAMEL = {"receiver", "group_by", "group_wait", "group_interval", "repeat_interval"}


def text() -> str:
    """The two objects as YAML."""
    head = "# Made by deploy/prometheus/render.py; change the files that it reads.\n"
    return head + yaml.safe_dump_all([_rules(), _routes()], sort_keys=False, width=200)


def _rules() -> dict[str, Any]:
    files = (DEPLOY / f"prometheus/{name}.yml" for name in ("recording", "alerts"))
    groups = [group for file in files for group in yaml.safe_load(file.read_text())["groups"]]
    for group in groups[:1]:
        group["name"] += "-recording"  # names are unique within an object
    return _object("PrometheusRule", "v1", {"groups": groups})


def _routes() -> dict[str, Any]:
    config = yaml.safe_load((DEPLOY / "alertmanager/compose.yml").read_text())
    hook = {"urlSecret": {"name": "alert-webhook", "key": "url"}, "sendResolved": True}
    spec = {
        "route": {**_route(config["route"]), "routes": [_route(each) for each in config["route"]["routes"]]},
        "inhibitRules": [
            {
                "sourceMatch": _matchers(rule["source_matchers"]),
                "targetMatch": _matchers(rule["target_matchers"]),
                **({"equal": rule["equal"]} if "equal" in rule else {}),
            }
            for rule in config["inhibit_rules"]
        ],
        "receivers": [{"name": each["name"], "webhookConfigs": [hook]} for each in config["receivers"]],
    }
    return _object("AlertmanagerConfig", "v1alpha1", spec)


def _route(route: dict[str, Any]) -> dict[str, Any]:
    made = {re.sub(r"_(\w)", lambda m: m[1].upper(), key): value for key, value in route.items() if key in CAMEL}
    return made | ({"matchers": _matchers(route["matchers"])} if "matchers" in route else {})


def _matchers(texts: list[str]) -> list[dict[str, str]]:
    found = (re.fullmatch(r'(\w+)(=~|!=|!~|=)"(.*)"', each) for each in texts)
    # A bare `=`, as kustomize writes it, is no string to YAML 1.1; the anchored expression says the same.
    return [{"name": m[1], "matchType": "=~" if m[2] == "=" else m[2], "value": m[3]} for m in found if m]


def _object(kind: str, version: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": f"monitoring.coreos.com/{version}",
        "kind": kind,
        "metadata": {"name": "cifake", "labels": {"app.kubernetes.io/name": "cifake"}},
        "spec": spec,
    }


if __name__ == "__main__":
    TARGET.write_text(text())
