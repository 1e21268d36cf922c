"""Run the static ladder: `python -m deploy.check`. Tools come from the environment this runs in (locks/deploy.txt)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from deploy.check import model, semantics

CHECKOUT = Path(__file__).resolve().parents[2]
OVERLAYS = ("local", "gpu", "production")
KUBERNETES = ("1.37", "1.33")
CRDS = ("monitoring.coreos.com/v1",)  # no schema in kubernetes-validate; semantics.py checks what they select
ROLES = sorted(path.stem for path in (CHECKOUT / "deploy/images").glob("*.Containerfile"))


def tool(name: str | Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a tool of this environment and capture what it says."""
    command = [Path(sys.executable).parent / name, *arguments]
    return subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)


def complaints(found: subprocess.CompletedProcess[str]) -> Iterator[str]:
    """What a tool that failed said, or that it failed."""
    if found.returncode:
        yield from (found.stdout + found.stderr).splitlines() or [f"{found.args[0]} exited {found.returncode}"]


def render(overlay: str) -> str:
    """An overlay's objects as YAML.

    Raises:
        SystemExit: kustomize refuses it.
    """
    made = tool("kubectl", "kustomize", f"k8s/overlays/{overlay}")
    if made.returncode:
        raise SystemExit(f"kustomize refuses overlays/{overlay}: {made.stderr.strip()}")
    return made.stdout


def schemas(rendered: Path) -> Iterator[str]:
    """Strict schema validation; a warning is a failure."""
    for version in KUBERNETES:
        found = tool("kubernetes-validate", "--strict", "--quiet", "-k", version, rendered)
        for line in (found.stdout + found.stderr).splitlines():
            if not any(f"api version {crd}" in line for crd in CRDS):
                yield f"{version}: {line}"
        if found.returncode not in (0, 1):
            yield f"{version}: kubernetes-validate exited {found.returncode}"


def meaning(rendered: Path) -> Iterator[str]:
    """The project's own checks."""
    required = CHECKOUT / "k8s/overlays" / rendered.stem / "required-secrets.yaml"
    outside = model.load_file(required) if required.exists() else {}
    objects = model.load(rendered.read_text())
    yield from semantics.problems(objects, outside)
    if rendered.stem == "production":
        yield from semantics.digests(objects)


def chart(overlay: Path, whole: Path) -> Iterator[str]:
    """The values for Airflow's chart fit the overlay `helm`, and carry the labels of the pods of `local`."""
    file = CHECKOUT / "k8s/overlays/helm/airflow-values.yaml"
    (values,) = model.load(file.read_text())
    objects = model.load(overlay.read_text())
    wanted = {("Secret", each["secret"]["secretName"]) for each in values["volumes"] if "secret" in each}
    sources: Any = model.load(values["extraEnvFrom"])[0]
    wanted |= {("ConfigMap", each["configMapRef"]["name"]) for each in sources}
    parts = ("apiServer", "scheduler", "triggerer", "dagProcessor", "migrateDatabaseJob")
    wanted |= {("ServiceAccount", account["name"]) for p in parts if (account := values[p].get("serviceAccount"))}
    for kind, name in sorted(wanted - {(o["kind"], o["metadata"]["name"]) for o in objects}):
        yield f"{file.name}: the overlay has no {kind}/{name}"
    own = {pod.labels["app.kubernetes.io/name"]: pod.labels for pod in model.workloads(model.load(whole.read_text()))}
    for part in parts:
        labels = values[part]["labels"]
        needed = {k: v for k, v in own[labels["app.kubernetes.io/name"]].items() if k != "app.kubernetes.io/part-of"}
        if labels != needed:
            yield f"{file.name}: {part} has labels {labels}, not {needed}"


def checkov(folder: Path) -> Iterator[str]:
    """Security policies on overlays and Containerfiles, with the reviewed skip list."""
    for role in ROLES:  # the name checkov knows
        (folder / role).mkdir()
        shutil.copy(CHECKOUT / f"deploy/images/{role}.Containerfile", folder / role / "Dockerfile")
    found = tool("checkov", "--config-file", CHECKOUT / "deploy/check/checkov.yaml", "-d", folder)
    if found.returncode:
        yield from (line for line in found.stdout.splitlines() if line.strip())
        yield from found.stderr.splitlines()[-3:]


def hadolint() -> Iterator[str]:
    """Containerfile style."""
    files = sorted(CHECKOUT.glob("deploy/images/*.Containerfile")) + sorted(
        CHECKOUT.glob("scripts/containers/standins/*.Containerfile")
    )
    yield from complaints(tool("hadolint", "--failure-threshold=style", *files))


def compose() -> Iterator[str]:
    """The compose file is valid, with and without its profile, and what it mounts of this checkout exists."""
    for profile in ([], ["--profile", "gpu"]):
        found = tool("docker-compose", "-f", "deploy/compose.yaml", *profile, "config", "--format=json")
        if found.returncode or found.stderr.strip():
            yield found.stderr.strip() or f"docker-compose exited {found.returncode}"
            return
    made = json.loads(found.stdout)
    volumes = [each for service in made["services"].values() for each in service.get("volumes", [])]
    paths = [each["source"] for each in volumes if each["type"] == "bind"]
    paths += [each["file"] for each in made["secrets"].values()]
    for path in sorted({*map(Path, paths)}):
        if path.is_relative_to(CHECKOUT) and not path.exists():
            yield f"{path.relative_to(CHECKOUT)} is mounted and does not exist"


def prometheus() -> Iterator[str]:
    """Rules and configuration are valid, and every case in prometheus/tests comes out as it says."""
    folder = CHECKOUT / "deploy/prometheus"
    tests = sorted(folder.glob("tests/*.yml"))
    rules = [folder / "recording.yml", folder / "alerts.yml"]
    commands: list[list[str | Path]] = [
        ["promtool", "check", "config", folder / "compose.yml"],
        ["promtool", "check", "rules", "--lint-fatal", *rules],
        ["promtool", "test", "rules", *tests],
        ["amtool", "check-config", CHECKOUT / "deploy/alertmanager/compose.yml"],
    ]
    for command in commands:
        yield from complaints(tool(*command))


def main() -> int:
    """Print every problem; exit 1 when there is any."""
    for secrets in ("k8s/overlays/local/secrets", "deploy/secrets"):
        subprocess.run([sys.executable, "deploy/make_secrets.py", secrets], cwd=CHECKOUT, check=True)
    bad = 0

    def report(what: str, check: Callable[[], Iterator[str]]) -> None:
        nonlocal bad
        problems = list(check())
        bad += len(problems)
        print(f"{'FAILED' if problems else 'ok':7}{what}", flush=True)
        for problem in problems:
            print(f"       {problem}")

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for overlay in OVERLAYS:
            rendered = folder / f"{overlay}.yaml"
            rendered.write_text(render(overlay))
            report(f"{overlay}: schemas of Kubernetes {' and '.join(KUBERNETES)}", lambda file=rendered: schemas(file))  # type: ignore[misc]
            report(f"{overlay}: selectors, references, images, restrictions", lambda file=rendered: meaning(file))  # type: ignore[misc]
        rendered = folder / "helm.yaml"
        rendered.write_text(render("helm"))
        report(f"helm: schemas of Kubernetes {' and '.join(KUBERNETES)}", lambda: schemas(rendered))
        report("helm: values for Airflow's chart", lambda: chart(rendered, folder / "local.yaml"))
        report("checkov: overlays and Containerfiles", lambda: checkov(folder))
    report("hadolint: Containerfiles", hadolint)
    report("compose config", compose)
    report("promtool, amtool: rules, their cases, configuration", prometheus)
    return 1 if bad else 0


if __name__ == "__main__":
    os.environ.setdefault("NO_COLOR", "1")
    sys.exit(main())
