"""Rendered Kubernetes objects, and the questions the checks ask of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

CLUSTER_SCOPED = {"Namespace"}
Object = dict[str, Any]


@dataclass(frozen=True)
class Workload:
    """Anything that makes pods: the object and its pod template."""

    object: Object
    template: Object

    @property
    def where(self) -> str:
        """`Kind/name`."""
        return where(self.object)

    @property
    def labels(self) -> dict[str, str]:
        """Labels of its pods."""
        return dict(self.template.get("metadata", {}).get("labels") or {})

    @property
    def spec(self) -> Object:
        """The pod's spec."""
        return dict(self.template["spec"])

    def containers(self) -> list[Object]:
        """Init containers and containers."""
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]

    def ports(self) -> dict[str, int]:
        """Port numbers by name; a nameless one is named by its number."""
        ports = [port for container in self.spec["containers"] for port in container.get("ports", [])]
        return {port.get("name", str(port["containerPort"])): port["containerPort"] for port in ports}


def where(item: Object) -> str:
    """`Kind/name` of an object."""
    return f"{item['kind']}/{item['metadata']['name']}"


def load(rendered: str) -> list[Object]:
    """The objects of a rendered overlay."""
    return [item for item in yaml.safe_load_all(rendered) if item]


def load_file(path: Path) -> Any:
    """A YAML file."""
    return yaml.safe_load(path.read_text())


def workloads(objects: list[Object]) -> Iterator[Workload]:
    """Everything that makes pods, PodTemplates included."""
    for item in objects:
        match item["kind"]:
            case "Deployment" | "StatefulSet" | "DaemonSet" | "Job":
                yield Workload(item, item["spec"]["template"])
            case "CronJob":
                yield Workload(item, item["spec"]["jobTemplate"]["spec"]["template"])
            case "PodTemplate":
                yield Workload(item, item["template"])


def matches(selector: Object | None, labels: dict[str, str]) -> bool:
    """Does a label selector (matchLabels, matchExpressions) select these labels? An empty one selects everything."""
    selector = selector or {}
    for key, value in (selector.get("matchLabels") or {}).items():
        if labels.get(key) != value:
            return False
    for term in selector.get("matchExpressions") or []:
        value, values = labels.get(term["key"]), term.get("values", [])
        holds = {
            "In": value in values,
            "NotIn": value not in values,
            "Exists": value is not None,
            "DoesNotExist": value is None,
        }[term["operator"]]
        if not holds:
            return False
    return True


def allows(objects: list[Object], source: dict[str, str], target: dict[str, str], port: int) -> bool:
    """Do the NetworkPolicies let pods labelled `source` reach TCP `port` of pods labelled `target`, one namespace?"""
    policies = [item["spec"] for item in objects if item["kind"] == "NetworkPolicy"]

    def one_way(kind: str, subject: dict[str, str], other: dict[str, str]) -> bool:
        about = [p for p in policies if kind in p["policyTypes"] and matches(p["podSelector"], subject)]
        peer_key = {"Ingress": "from", "Egress": "to"}[kind]
        for rule in (rule for policy in about for rule in policy.get(kind.lower(), [])):
            peers = rule.get(peer_key)
            selected = peers is None or any(
                "podSelector" in peer and "namespaceSelector" not in peer and matches(peer["podSelector"], other)
                for peer in peers
            )
            ports = rule.get("ports")
            open_port = ports is None or any(
                entry.get("protocol", "TCP") == "TCP" and entry.get("port", port) == port for entry in ports
            )
            if selected and open_port:
                return True
        return not about

    return one_way("Egress", source, target) and one_way("Ingress", target, source)
