"""What a schema cannot say: selectors select, references exist, images are pinned, pods are restricted.

Every check takes the objects of one rendered overlay and yields one line per problem.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from deploy.check.model import CLUSTER_SCOPED, Object, Workload, matches, where, workloads

Problems = Iterator[str]


def names(objects: list[Object], kind: str) -> set[str]:
    """Names of the objects of a kind."""
    return {item["metadata"]["name"] for item in objects if item["kind"] == kind}


def identities(objects: list[Object]) -> Problems:
    """Every object once, and in the one namespace."""
    for (kind, name), count in Counter((o["kind"], o["metadata"]["name"]) for o in objects).items():
        if count > 1:
            yield f"{kind}/{name}: rendered {count} times"
    (namespace,) = names(objects, "Namespace")
    for item in objects:
        found = item["metadata"].get("namespace")
        if item["kind"] not in CLUSTER_SCOPED and found != namespace:
            yield f"{where(item)}: namespace {found}, not {namespace}"


def selectors(objects: list[Object]) -> Problems:
    """Workloads select their own pods; Services, PDBs and policies select somebody's; named ports exist."""
    pods = list(workloads(objects))
    for pod in pods:
        selector = pod.object.get("spec", {}).get("selector")
        if selector and not matches(selector, pod.labels):
            yield f"{pod.where}: its selector does not match its own pods"
    for item in objects:
        spec = item.get("spec", {})
        if item["kind"] == "Service":
            chosen = [p for p in pods if matches({"matchLabels": spec["selector"]}, p.labels)]
            if not chosen:
                yield f"{where(item)}: selects no pod"
            for pod in chosen:
                known = pod.ports()
                for port in spec["ports"]:
                    target = port.get("targetPort", port["port"])
                    if target not in known and target not in known.values():
                        yield f"{where(item)}: {pod.where} has no port {target}"
        elif item["kind"] == "PodDisruptionBudget":
            if not any(matches(spec["selector"], p.labels) for p in pods):
                yield f"{where(item)}: selects no pod"
        elif item["kind"] == "HorizontalPodAutoscaler":
            target = spec["scaleTargetRef"]
            if target["name"] not in names(objects, target["kind"]):
                yield f"{where(item)}: no {target['kind']}/{target['name']} to scale"
        elif item["kind"] == "NetworkPolicy":
            yield from _policy(item, pods)
        elif item["kind"] == "ServiceMonitor":
            services = [
                o for o in objects if o["kind"] == "Service" and matches(spec["selector"], o["metadata"]["labels"])
            ]
            ports = {port.get("name") for service in services for port in service["spec"]["ports"]}
            for endpoint in spec["endpoints"]:
                if endpoint["port"] not in ports:
                    yield f"{where(item)}: no Service it selects has a port {endpoint['port']}"


def _policy(item: Object, pods: list[Workload]) -> Problems:
    spec = item["spec"]
    subjects = [p for p in pods if matches(spec["podSelector"], p.labels)]
    if not subjects:
        yield f"{where(item)}: selects no pod"
    for rule in [*spec.get("ingress", []), *spec.get("egress", [])]:
        inward = rule in spec.get("ingress", [])
        peers = [p for p in rule.get("from" if inward else "to", []) if "podSelector" in p and len(p) == 1]
        chosen = [p for p in pods if any(matches(peer["podSelector"], p.labels) for peer in peers)]
        if peers and not chosen:
            yield f"{where(item)}: a rule's peer selects no pod"
        listening = subjects if inward else chosen
        known = {number for pod in listening for number in pod.ports().values()}
        for port in rule.get("ports", []) if listening else []:
            if port["port"] not in known:
                yield f"{where(item)}: opens port {port['port']}, where nobody listens"


def references(objects: list[Object], outside: dict[str, list[str]]) -> Problems:
    """ConfigMaps, Secrets and their keys, claims, service accounts, roles and Services that are named exist.

    `outside` lists Secrets made by others: name → keys.
    """
    keys: dict[tuple[str, str], set[str]] = {("Secret", name): set(found) for name, found in outside.items()}
    for item in objects:
        if item["kind"] in ("ConfigMap", "Secret"):
            keys[item["kind"], item["metadata"]["name"]] = set(item.get("data") or {})

    for pod in workloads(objects):
        for kind, name, key in _configuration(pod):
            if (kind, name) not in keys:
                yield f"{pod.where}: no {kind} {name}"
            elif key and key not in keys[kind, name]:
                yield f"{pod.where}: {kind} {name} has no key {key}"
        account = pod.spec.get("serviceAccountName", "default")
        if account != "default" and account not in names(objects, "ServiceAccount"):
            yield f"{pod.where}: no ServiceAccount {account}"
        claims = {v["persistentVolumeClaim"]["claimName"] for v in _volumes(pod) if "persistentVolumeClaim" in v}
        for claim in claims - names(objects, "PersistentVolumeClaim"):
            yield f"{pod.where}: no PersistentVolumeClaim {claim}"
        declared = {v["name"] for v in _volumes(pod)}
        templates = pod.object.get("spec", {}).get("volumeClaimTemplates", [])
        declared |= {template["metadata"]["name"] for template in templates}
        mounted = {m["name"] for c in pod.containers() for m in c.get("volumeMounts", [])}
        for name in mounted ^ declared:
            yield f"{pod.where}: volume {name} is {'not declared' if name in mounted else 'mounted nowhere'}"
    for item in objects:
        yield from _other_references(item, objects, keys)


def _volumes(pod: Workload) -> list[Object]:
    return list(pod.spec.get("volumes") or [])


def _configuration(pod: Workload) -> Iterator[tuple[str, str, str | None]]:
    for volume in _volumes(pod):
        for kind, field, name in (("ConfigMap", "configMap", "name"), ("Secret", "secret", "secretName")):
            if field in volume:
                source = volume[field]
                yield kind, source[name], None
                yield from ((kind, source[name], entry["key"]) for entry in source.get("items", []))
    secrets = {v["name"]: v["secret"]["secretName"] for v in _volumes(pod) if "secret" in v}
    for container in pod.containers():
        for source in container.get("envFrom", []):
            for kind, field in (("ConfigMap", "configMapRef"), ("Secret", "secretRef")):
                if field in source:
                    yield kind, source[field]["name"], None
        mounts = {m["mountPath"]: secrets[m["name"]] for m in container.get("volumeMounts", []) if m["name"] in secrets}
        for variable in container.get("env", []):
            source = variable.get("valueFrom", {})
            for kind, field in (("ConfigMap", "configMapKeyRef"), ("Secret", "secretKeyRef")):
                if field in source:
                    yield kind, source[field]["name"], source[field]["key"]
            for path in re.findall(r"/etc/cifake/[^\s,]+", variable.get("value", "")):
                folder, _, key = path.rpartition("/")
                if folder in mounts:
                    yield "Secret", mounts[folder], key
                else:
                    yield "Secret", f"mounted at {folder} (for {variable['name']})", key


def _other_references(item: Object, objects: list[Object], keys: dict[tuple[str, str], set[str]]) -> Problems:
    if item["kind"] == "RoleBinding":
        if item["roleRef"]["name"] not in names(objects, item["roleRef"]["kind"]):
            yield f"{where(item)}: no {item['roleRef']['kind']} {item['roleRef']['name']}"
        for subject in item["subjects"]:
            if subject["name"] not in names(objects, subject["kind"]):
                yield f"{where(item)}: no {subject['kind']} {subject['name']}"
    elif item["kind"] == "Ingress":
        for entry in item["spec"].get("tls", []):
            if ("Secret", entry["secretName"]) not in keys:
                yield f"{where(item)}: no Secret {entry['secretName']}"
        for path in (p for rule in item["spec"]["rules"] for p in rule["http"]["paths"]):
            service = path["backend"]["service"]
            ports = _service_ports(objects).get(service["name"], {})
            if service["port"].get("name", service["port"].get("number")) not in {*ports, *ports.values()}:
                yield f"{where(item)}: no Service {service['name']} with that port"
    elif item["kind"] == "StatefulSet" and item["spec"]["serviceName"] not in names(objects, "Service"):
        yield f"{where(item)}: no Service {item['spec']['serviceName']}"
    elif item["kind"] == "ConfigMap":
        services = _service_ports(objects)
        for key, value in (item.get("data") or {}).items():
            if key.isupper():
                for host, port in re.findall(r"http://([a-z0-9-]+):(\d+)", value):
                    if int(port) not in services.get(host, {}).values():
                        yield f"{where(item)}: {key} names {host}:{port}, which no Service offers"


def _service_ports(objects: list[Object]) -> dict[str, dict[str, int]]:
    return {
        item["metadata"]["name"]: {port["name"]: port["port"] for port in item["spec"]["ports"]}
        for item in objects
        if item["kind"] == "Service"
    }


def images(objects: list[Object]) -> Problems:
    """Every image names a registry and a fixed version."""
    for pod in workloads(objects):
        for container in pod.containers():
            image = container.get("image", "")
            registry, _, rest = image.partition("/")
            if not rest or ("." not in registry and registry != "localhost"):
                yield f"{pod.where}: image {image or 'missing'} names no registry"
            if "@sha256:" not in image and (":" not in rest or image.endswith(":latest")):
                yield f"{pod.where}: image {image} is not pinned to a version"


def digests(objects: list[Object]) -> Problems:
    """Every image is named by digest, once it is published: a name at example.com is one to be replaced first."""
    for pod in workloads(objects):
        for container in pod.containers():
            published = not container["image"].startswith("registry.example.com/")
            if published and "@sha256:" not in container["image"]:
                yield f"{pod.where}: image {container['image']} is not pinned by digest"


def restricted(objects: list[Object]) -> Problems:
    """Pod Security 'restricted', a read-only root, requests and a memory limit, and a token only where needed."""
    bound = {s["name"] for o in objects if o["kind"] == "RoleBinding" for s in o["subjects"]}
    for pod in workloads(objects):
        spec = pod.spec
        security = spec.get("securityContext", {})
        rules: list[tuple[Any, str]] = [
            (security.get("runAsNonRoot"), "runs as root"),
            (security.get("runAsUser"), "has no numeric user"),
            (security.get("seccompProfile", {}).get("type") == "RuntimeDefault", "has no seccomp profile"),
            (not any(spec.get(k) for k in ("hostNetwork", "hostPID", "hostIPC")), "shares a namespace with the host"),
            (not any("hostPath" in v for v in _volumes(pod)), "mounts the host's files"),
            (
                "automountServiceAccountToken" in spec
                and spec["automountServiceAccountToken"] == (spec.get("serviceAccountName") in bound),
                "mounts a token no role is bound to, or misses one",
            ),
        ]
        for container in pod.containers():
            own = container.get("securityContext", {})
            resources = container.get("resources", {})
            rules += [
                (own.get("allowPrivilegeEscalation") is False, f"{container['name']}: may gain privileges"),
                (own.get("capabilities", {}).get("drop") == ["ALL"], f"{container['name']}: keeps capabilities"),
                (not own.get("capabilities", {}).get("add"), f"{container['name']}: adds capabilities"),
                (own.get("readOnlyRootFilesystem"), f"{container['name']}: can write its root file system"),
                ({"cpu", "memory"} <= set(resources.get("requests", {})), f"{container['name']}: requests nothing"),
                ("memory" in resources.get("limits", {}), f"{container['name']}: has no memory limit"),
            ]
        yield from (f"{pod.where}: {problem}" for holds, problem in rules if not holds)


def probes(objects: list[Object]) -> Problems:
    """Servers have a liveness probe, and a readiness probe where a Service sends them requests; probed ports exist."""
    services = [o for o in objects if o["kind"] == "Service" and o["spec"].get("clusterIP") != "None"]
    for pod in workloads(objects):
        if pod.object["kind"] not in ("Deployment", "StatefulSet"):
            continue
        asked = any(matches({"matchLabels": s["spec"]["selector"]}, pod.labels) for s in services)
        for container in pod.spec["containers"]:
            for probe in ["livenessProbe"] + ["readinessProbe"] * asked:
                if probe not in container:
                    yield f"{pod.where}: {container['name']} has no {probe}"
            for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
                action = container.get(probe, {})
                port = (action.get("httpGet") or action.get("tcpSocket") or {}).get("port")
                if port and port not in {*pod.ports(), *pod.ports().values()}:
                    yield f"{pod.where}: {container['name']}'s {probe} asks a port {port} it does not have"


def network_labels(objects: list[Object]) -> Problems:
    """Every `cifake/uses-X` label a pod carries is one a policy knows."""
    known = set()
    for item in objects:
        if item["kind"] == "NetworkPolicy":
            known |= set(item["spec"]["podSelector"].get("matchLabels") or {})
    for pod in workloads(objects):
        for label in pod.labels:
            if label.startswith("cifake/uses-") and label not in known:
                yield f"{pod.where}: no policy opens anything for {label}"


def published(objects: list[Object]) -> Problems:
    """What an Ingress publishes asks for API keys, and the pods that use a detector with keys send one."""
    rules = [rule for item in objects if item["kind"] == "Ingress" for rule in item["spec"]["rules"]]
    shown = {path["backend"]["service"]["name"] for rule in rules for path in rule["http"]["paths"]}
    chosen = [o["spec"]["selector"] for o in objects if o["kind"] == "Service" and o["metadata"]["name"] in shown]
    pods = [
        (pod, {entry["name"]: entry.get("value") for each in pod.containers() for entry in each.get("env", [])})
        for pod in workloads(objects)
    ]
    keyed = any("CIFAKE_API_KEYS" in variables for _, variables in pods)
    for pod, variables in pods:
        if variables.get("CIFAKE_AUTH") == "off" and any(matches({"matchLabels": s}, pod.labels) for s in chosen):
            yield f"{pod.where}: an Ingress publishes it, but it asks for no API key (CIFAKE_AUTH)"
        if keyed and "cifake/uses-detector" in pod.labels and "CIFAKE_API_KEY_FROM_FILE" not in variables:
            yield f"{pod.where}: uses a detector that asks for API keys, and has none (CIFAKE_API_KEY_FROM_FILE)"


CHECKS: list[Callable[[list[Object]], Problems]] = [
    identities,
    selectors,
    images,
    restricted,
    probes,
    network_labels,
    published,
]


def problems(objects: list[Object], outside: dict[str, list[str]] | None = None) -> list[str]:
    """All checks on one rendered overlay."""
    found = [problem for check in CHECKS for problem in check(objects)]
    return sorted({*found, *references(objects, outside or {})})
