"""Prometheus, Alertmanager and the push gateway on one machine: their configurations, made from compose's."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import yaml

from cifake_core.errors import ConfigurationError
from cifake_core.settings import CHECKOUT, settings

TOOLS = ("prometheus", "prometheus-alertmanager", "prometheus-pushgateway", "promtool", "amtool")


def tools() -> Path:
    """The folder with Prometheus' programs; fetched when they are not there.

    Raises:
        ConfigurationError: one is neither installed nor to be had.
    """
    assert CHECKOUT
    folder = CHECKOUT / ".venv-prometheus"
    done = subprocess.run([CHECKOUT / "scripts/prometheus-tools", folder, *TOOLS], capture_output=True, text=True)
    if done.returncode:
        raise ConfigurationError(done.stderr.strip())
    return folder


def prometheus(interval: str | None = None) -> dict[str, Any]:
    """Prometheus' configuration: compose's, with this machine's addresses.

    Args:
        interval: how often to scrape and to evaluate rules; compose's own by default.
    """
    assert CHECKOUT
    this, folder = settings(), CHECKOUT / "deploy/prometheus"
    made: dict[str, Any] = yaml.safe_load((folder / "compose.yml").read_text())
    here = {
        "detector": this.service_port,
        "pushgateway": this.pushgateway_port,
        "prometheus": this.prometheus_port,
        "alertmanager": this.alertmanager_port,
    }
    for job in made["scrape_configs"]:
        job["static_configs"] = [{"targets": [f"{this.host}:{here[job['job_name']]}"]}]
    made["alerting"]["alertmanagers"] = [{"static_configs": [{"targets": [f"{this.host}:{this.alertmanager_port}"]}]}]
    made["rule_files"] = [str(folder / name) for name in made["rule_files"]]
    if interval:
        made["global"] = {"scrape_interval": interval, "evaluation_interval": interval}
    return made


def alertmanager() -> dict[str, Any]:
    """Alertmanager's configuration: compose's, telling CIFAKE_ALERT_WEBHOOK, or nobody when that is empty."""
    assert CHECKOUT
    made: dict[str, Any] = yaml.safe_load((CHECKOUT / "deploy/alertmanager/compose.yml").read_text())
    for receiver in made["receivers"]:
        hooks = receiver.pop("webhook_configs", [])
        if settings().alert_webhook:
            receiver["webhook_configs"] = [{**hook, "url": settings().alert_webhook} for hook in hooks]
    return made


def write(folder: Path) -> None:
    """Write both configurations into a folder."""
    for each in (folder, settings().home / "monitoring"):
        each.mkdir(parents=True, exist_ok=True)
    (folder / "prometheus.yml").write_text(yaml.safe_dump(prometheus(settings().scrape_interval or None)))
    (folder / "alertmanager.yml").write_text(yaml.safe_dump(alertmanager()))


def commands() -> list[tuple[str, list[str], int, str, str]]:
    """(name, command, port, setting that changes it, path that answers when it is up) of each program."""
    this, folder, home = settings(), tools(), settings().home
    run, data = home / "run", home / "monitoring"
    return [
        (
            "pushgateway",
            [
                str(folder / "prometheus-pushgateway"),
                f"--web.listen-address={this.host}:{this.pushgateway_port}",
                f"--persistence.file={data / 'pushgateway'}",
                "--persistence.interval=30s",
            ],
            this.pushgateway_port,
            "CIFAKE_PUSHGATEWAY_PORT",
            "/-/ready",
        ),
        (
            "alertmanager",
            [
                str(folder / "prometheus-alertmanager"),
                f"--config.file={run / 'alertmanager.yml'}",
                f"--storage.path={data / 'alertmanager'}",
                f"--web.listen-address={this.host}:{this.alertmanager_port}",
                "--cluster.listen-address=",
            ],
            this.alertmanager_port,
            "CIFAKE_ALERTMANAGER_PORT",
            "/-/ready",
        ),
        (
            "prometheus",
            [
                str(folder / "prometheus"),
                f"--config.file={run / 'prometheus.yml'}",
                f"--storage.tsdb.path={data / 'prometheus'}",
                "--storage.tsdb.retention.time=30d",
                f"--web.listen-address={this.host}:{this.prometheus_port}",
            ],
            this.prometheus_port,
            "CIFAKE_PROMETHEUS_PORT",
            "/-/ready",
        ),
    ]
