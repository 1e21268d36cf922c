"""Airflow, MLflow and the detector on one machine, kept running by supervisord: `up`, `down`, `status`.

Everything is on loopback and in CIFAKE_HOME: `run/` (supervisor's files), `logs/` (one file per program), `airflow/`.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shlex
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import xmlrpc.client
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import monitoring

from cifake_core.errors import CheckFailedError, ConfigurationError
from cifake_core.settings import CHECKOUT, settings
from cifake_core.verb import verb

UP_SECONDS = 600  # a busy laptop, first start; a program that cannot start is noticed at once
STOP_SECONDS = 30  # what a program gets before it is killed
AIRFLOW_COMPONENTS = ("api-server", "scheduler", "dag-processor", "triggerer")


@dataclass(frozen=True)
class Program:
    """One supervised process; `port` and `health` only where it listens."""

    name: str
    command: list[str]
    port: int | None = None
    setting: str = ""  # what changes the port
    health: str = ""  # a path that answers 200 when it is up
    environment: dict[str, str] = field(default_factory=dict)


def programs() -> list[Program]:
    """What `up` starts; MLflow only when MLFLOW_TRACKING_URI names no other server."""
    assert CHECKOUT
    this, host, home = settings(), settings().host, settings().home
    mlflow = [
        *(str(CHECKOUT / ".venv/bin/mlflow"), "server", "--host", host, "--port", str(this.mlflow_port)),
        # Artefacts are not proxied: clients of the server and of its database then see the same files.
        *("--backend-store-uri", f"sqlite:///{home}/mlflow.db", "--default-artifact-root", this.artifact_root),
        *("--no-serve-artifacts", "--workers", "1"),
    ]
    detector = [str(CHECKOUT / ".venv-serve/bin/cifake"), "serve", "--host", host, "--port", str(this.service_port)]
    airflow = str(CHECKOUT / ".venv-airflow/bin/airflow")
    made = [Program("detector", detector, this.service_port, "CIFAKE_SERVICE_PORT", "/livez")]
    if not this.tracking_uri.startswith("http"):
        made.insert(0, Program("mlflow", mlflow, this.mlflow_port, "CIFAKE_MLFLOW_PORT", "/health"))
    for component in AIRFLOW_COMPONENTS:
        # Airflow's own log servers listen on every interface and are needed between machines only.
        skip = ["--skip-serve-logs"] if component in ("scheduler", "triggerer") else []
        where = (this.airflow_port, "CIFAKE_AIRFLOW_PORT", "/api/v2/monitor/health")
        listens = where if component == "api-server" else (None, "", "")
        made.append(Program(f"airflow-{component}", [airflow, component, *skip], *listens))
    if this.monitoring:
        made += [Program(*each) for each in monitoring.commands()]
    return made


def environment() -> dict[str, str]:
    """Settings of every program, and so of the steps that Airflow runs."""
    assert CHECKOUT
    this, home = settings(), settings().home
    address = f"http://{this.host}:{this.airflow_port}"
    mlflow = f"http://{this.host}:{this.mlflow_port}"
    given = {
        "CIFAKE_HOME": str(home),
        "CIFAKE_STORE": this.store,
        "CIFAKE_SERVICE_URL": this.service_url,
        "MLFLOW_TRACKING_URI": this.tracking_uri if this.tracking_uri.startswith("http") else mlflow,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "BENTOML_DO_NOT_TRACK": "true",
        "GX_ANALYTICS_ENABLED": "false",
        "AIRFLOW_HOME": str(home / "airflow"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(CHECKOUT / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__PARALLELISM": "2",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{address}/execution/",
        "AIRFLOW__API__BASE_URL": address,
        "AIRFLOW__API__HOST": this.host,
        "AIRFLOW__API__PORT": str(this.airflow_port),
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(home / "logs" / "airflow"),
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
    }
    if this.monitoring:
        given["CIFAKE_PUSH_GATEWAY"] = this.push_gateway or f"http://{this.host}:{this.pushgateway_port}"
        given["CIFAKE_PROMETHEUS_URL"] = f"http://{this.host}:{this.prometheus_port}"
    inherited = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return {**inherited, **given}


class Supervisor:
    """The supervisord of this CIFAKE_HOME, running or not."""

    def __init__(self) -> None:
        self.run = settings().home / "run"
        self.logs = settings().home / "logs"
        self.config = self.run / "supervisord.conf"
        self.socket = self.run / "supervisor.sock"
        if len(str(self.socket)) > 90:  # the system's limit is about 100 characters
            digest = hashlib.sha256(str(self.run).encode()).hexdigest()[:12]
            self.socket = Path(tempfile.gettempdir()) / f"cifake-{os.getuid()}-{digest}.sock"

    @property
    def url(self) -> str:
        """The address of its control socket; supervisord also puts it into its children's environment."""
        return f"unix://{self.socket}"

    def call(self, method: str, *arguments: Any) -> Any:
        """A call of supervisord's XML-RPC interface; None when it does not run or is about to stop."""
        from supervisor.xmlrpc import SupervisorTransport

        proxy = xmlrpc.client.ServerProxy("http://127.0.0.1", transport=SupervisorTransport(None, None, self.url))
        try:
            return getattr(proxy.supervisor, method)(*arguments)
        except (OSError, xmlrpc.client.Error):
            return None

    def states(self) -> dict[str, dict[str, Any]]:
        """Program name → what supervisord knows of it; empty when it does not run."""
        return {each["name"]: each for each in self.call("getAllProcessInfo") or []}

    def start(self, wanted: list[Program], env: dict[str, str], text: str) -> None:
        """Start supervisord as a daemon with this configuration."""
        self.run.mkdir(parents=True, exist_ok=True)
        self.logs.mkdir(parents=True, exist_ok=True)
        self.config.write_text(text)
        command = [sys.executable, "-m", "supervisor.supervisord", "-c", str(self.config)]
        done = subprocess.run(command, env=env, cwd=self.run, capture_output=True, text=True)
        if done.returncode:
            raise ConfigurationError(f"supervisord did not start: {(done.stderr or done.stdout).strip()[-300:]}")
        _until(lambda: self.states(), 20, "supervisord did not answer within 20 s")

    def configuration(self, wanted: list[Program], env: dict[str, str]) -> str:
        """supervisord.conf. Its first line changes with the environment, so that a changed setting is noticed."""
        relevant = {k: v for k, v in env.items() if k.startswith(("CIFAKE_", "MLFLOW_", "AIRFLOW", "AWS_"))}
        digest = hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()
        lines = [
            f"; environment {digest}",
            *("[unix_http_server]", f"file={_plain(self.socket)}", "chmod=0700"),
            *("[supervisord]", f"logfile={_plain(self.logs / 'supervisord.log')}", "logfile_maxbytes=5MB"),
            *(f"pidfile={_plain(self.run / 'supervisord.pid')}", "umask=077"),
            "[rpcinterface:supervisor]",
            "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface",
        ]
        for each in wanted:
            lines += [
                *(f"[program:{each.name}]", f"command={_plain(shlex.join(each.command))}"),
                *("redirect_stderr=true", f"stdout_logfile={_plain(self.logs / each.name)}.log"),
                *("stdout_logfile_maxbytes=10MB", "stdout_logfile_backups=2", "startsecs=5", "startretries=2"),
                *("stopasgroup=true", "killasgroup=true", f"stopwaitsecs={STOP_SECONDS}"),
            ]
        return "\n".join(lines) + "\n"

    def stop(self) -> int:
        """Stop supervisord, its programs, and what these left behind; how many processes were stopped."""
        import psutil

        mine = self._processes()
        if pid := self.call("getPID"):
            supervisord = psutil.Process(pid)
            self.call("shutdown")
            psutil.wait_procs([supervisord], timeout=STOP_SECONDS + 15)
        # A killed supervisord, or a step in a session of its own, leaves processes: they carry supervisord's address.
        left = [each for each in {*mine, *self._processes()} if each.is_running()]
        for each in left:
            each.terminate()
        for each in psutil.wait_procs(left, timeout=10)[1]:
            each.kill()
        return len(mine)

    def _processes(self) -> list[Any]:
        import psutil

        found = []
        for each in psutil.process_iter():
            try:
                if each.environ().get("SUPERVISOR_SERVER_URL") == self.url and each.pid != os.getpid():
                    found.append(each)
            except psutil.Error:
                continue
        return found


def _plain(value: object) -> str:
    """A value for supervisord.conf, where % would start an expansion."""
    return str(value).replace("%", "%%")


def _until(ready: Any, seconds: float, message: str) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise CheckFailedError(message)
        time.sleep(0.3)


@contextmanager
def _alone() -> Iterator[None]:
    """One `up` or `down` at a time."""
    settings().home.mkdir(parents=True, exist_ok=True)
    with (settings().home / "stack.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _require_free_ports(wanted: list[Program]) -> None:
    for each in wanted:
        if each.port is None:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((settings().host, each.port))
            except OSError as exc:
                raise ConfigurationError(
                    f"port {each.port}, meant for {each.name}, cannot be used ({exc.strerror}); "
                    f"stop what listens there or set {each.setting} to another port"
                ) from exc


def _healthy(program: Program) -> bool:
    if program.port is None:
        return True
    try:
        with urllib.request.urlopen(f"http://{settings().host}:{program.port}{program.health}", timeout=3) as answer:
            if not program.name.startswith("airflow"):
                return True
            parts = json.load(answer)
    except (urllib.error.URLError, OSError, ValueError):
        return False
    return all(parts[part]["status"] == "healthy" for part in ("metadatabase", "scheduler", "dag_processor"))


def _migrate(env: dict[str, str]) -> None:
    """Make or upgrade Airflow's database, once per lock."""
    assert CHECKOUT
    home = settings().home / "airflow"
    stamp, lock = home / ".migrated", hashlib.sha256((CHECKOUT / "locks/airflow.txt").read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == lock:
        return
    command = [str(CHECKOUT / ".venv-airflow/bin/airflow"), "db", "migrate"]
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        log = settings().home / "logs" / "airflow-migrate.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(done.stdout)
        raise ConfigurationError(f"Airflow's database in {home} could not be made or upgraded; see {log}")
    stamp.write_text(lock)


def addresses(watched: bool) -> dict[str, str]:
    """Where people look; `watched`: at Prometheus and what is beside it, too."""
    this = settings()
    passwords = this.home / "airflow" / "simple_auth_manager_passwords.json.generated"
    watching = {
        "Prometheus": f"http://{this.host}:{this.prometheus_port}",
        "Alerts": f"http://{this.host}:{this.alertmanager_port}",
        "Pushed": f"http://{this.host}:{this.pushgateway_port}",
    }
    return {
        "Airflow": f"http://{this.host}:{this.airflow_port}  (user admin, password in {passwords})",
        "MLflow": environment()["MLFLOW_TRACKING_URI"],
        "detector": this.service_url,
        **(watching if watched else {}),
        "logs": str(this.home / "logs"),
    }


def _render(result: dict[str, Any]) -> str:
    lines = [f"{name:12}{value}" for name, value in result["addresses"].items()]
    return "\n".join(lines)


def _render_status(result: dict[str, Any]) -> str:
    if not result["programs"]:
        return "nothing runs; start it with `make up`"
    lines = [f"{name:24}{what}" for name, what in result["programs"].items()]
    return "\n".join([*lines, "", _render(result)])


@verb("up", render=_render)
def up() -> dict[str, Any]:
    """Start what is not running, wait until all of it answers, print the addresses."""
    supervisor, wanted, env = Supervisor(), programs(), environment()
    text = supervisor.configuration(wanted, env)
    with _alone():
        states = supervisor.states()
        if states and supervisor.config.read_text() != text:
            click.echo("settings have changed: restarting", err=True)
            supervisor.stop()
            states = {}
        if not states:
            _require_free_ports(wanted)
            _migrate(env)
            if settings().monitoring:
                monitoring.write(supervisor.run)
            supervisor.start(wanted, env, text)
        for name, state in states.items():
            if state["statename"] in ("STOPPED", "EXITED", "FATAL", "UNKNOWN"):
                supervisor.call("startProcess", name, False)
        _wait(supervisor, wanted)
    return {"addresses": addresses(settings().monitoring)}


def _wait(supervisor: Supervisor, wanted: list[Program]) -> None:
    deadline = time.monotonic() + UP_SECONDS
    waiting = list(wanted)
    while waiting:
        states = supervisor.states()
        for each in wanted:
            if states.get(each.name, {}).get("statename") == "FATAL":
                log = supervisor.logs / f"{each.name}.log"
                last = log.read_text(errors="replace").strip().splitlines()[-1:] if log.exists() else []
                raise CheckFailedError(f"{each.name} does not stay up: {' '.join(last)[:300]} (see {log})")
        waiting = [
            each for each in waiting if states.get(each.name, {}).get("statename") != "RUNNING" or not _healthy(each)
        ]
        if waiting and time.monotonic() > deadline:
            names = ", ".join(each.name for each in waiting)
            raise CheckFailedError(f"not up after {UP_SECONDS} s: {names}; see {supervisor.logs}")
        if waiting:
            time.sleep(0.5)


@verb("down", render=lambda result: "stopped" if result["stopped"] else "nothing was running")
def down() -> dict[str, Any]:
    """Stop what `up` started, and nothing else."""
    with _alone():
        return {"stopped": Supervisor().stop()}


@verb("status", render=_render_status)
def status() -> dict[str, Any]:
    """Show each program's state and the addresses."""
    states = Supervisor().states()
    shown = {name: f"{each['statename'].lower():10}{each['description']}" for name, each in states.items()}
    return {"programs": shown, "addresses": addresses("prometheus" in states)}


@click.group()
def main() -> None:
    """The local stack."""


for _verb in (up, down, status):
    main.add_command(_verb)

if __name__ == "__main__":
    main()
