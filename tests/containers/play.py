"""Rendered objects as podman can play them, and what that leaves out."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

Object = dict[str, Any]
# What `podman kube play` runs as it is; a StatefulSet is played as the pod it would make.
PLAYED = ("Deployment", "Job", "Pod", "StatefulSet")
HELD = ("ConfigMap", "Secret", "PersistentVolumeClaim")


def pod_of(item: Object) -> Object:
    """The pod spec in a workload."""
    return item["spec"] if item["kind"] == "Pod" else item["spec"]["template"]["spec"]


def playable(item: Object, objects: list[Object]) -> str:
    """A workload and all it mounts or reads, as one document for `podman kube play`.

    Two things differ from what was rendered: a StatefulSet becomes its first pod with its claims, and an emptyDir is
    named after its pod, because podman would share one between all pods that name it alike.
    """
    item = copy.deepcopy(item)
    name, made = item["metadata"]["name"], []
    if item["kind"] == "StatefulSet":
        template, claims = item["spec"]["template"], item["spec"].get("volumeClaimTemplates", [])
        for claim in claims:
            volume = {"name": claim["metadata"]["name"]}
            about = {"name": f"{volume['name']}-{name}-0"}
            made.append({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": about, "spec": claim["spec"]})
            template["spec"]["volumes"].append({**volume, "persistentVolumeClaim": {"claimName": about["name"]}})
        about = {"name": f"{name}-0", "labels": template["metadata"]["labels"]}
        item = {"apiVersion": "v1", "kind": "Pod", "metadata": about, "spec": template["spec"]}
    spec = pod_of(item)
    own = {v["name"]: f"{item['metadata']['name']}-{v['name']}" for v in spec.get("volumes", []) if "emptyDir" in v}
    for volume in spec.get("volumes", []):
        volume["name"] = own.get(volume["name"], volume["name"])
    for container in [*spec.get("initContainers", []), *spec["containers"]]:
        for mount in container.get("volumeMounts", []):
            mount["name"] = own.get(mount["name"], mount["name"])
    used = set(names(spec))
    held = [o for o in objects if o["kind"] in HELD and (o["kind"], o["metadata"]["name"]) in used]
    return "\n---\n".join(json.dumps(each) for each in [*held, *made, item])


def names(spec: Object) -> Iterator[tuple[str, str]]:
    """Kind and name of every ConfigMap, Secret and claim a pod names."""
    for volume in spec.get("volumes", []):
        if "configMap" in volume:
            yield "ConfigMap", volume["configMap"]["name"]
        if "secret" in volume:
            yield "Secret", volume["secret"]["secretName"]
        if "persistentVolumeClaim" in volume:
            yield "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]
    for container in [*spec.get("initContainers", []), *spec["containers"]]:
        for source in container.get("envFrom", []):
            if "configMapRef" in source:
                yield "ConfigMap", source["configMapRef"]["name"]
        for variable in container.get("env", []):
            if "configMapKeyRef" in (variable.get("valueFrom") or {}):
                yield "ConfigMap", variable["valueFrom"]["configMapKeyRef"]["name"]
