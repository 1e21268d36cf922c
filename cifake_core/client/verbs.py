"""classify, explain, serve, status: the verbs of a detector's users."""

from __future__ import annotations

import os
import socket
import sys

import click

from cifake_core.errors import ConfigurationError
from cifake_core.settings import settings
from cifake_core.verb import verb


@verb("serve")
@click.option("--host", default=None, help="Address to bind [default: CIFAKE_HOST, 127.0.0.1].")
@click.option("--port", type=click.IntRange(1, 65535), default=None, help="Port [default: CIFAKE_SERVICE_PORT, 3000].")
def serve(host: str | None, port: int | None) -> None:
    """Serve the champion over HTTP until interrupted.

    Follows the registry alias `champion`: after a promotion the new version answers within seconds.
    """
    host, port = host or settings().host, port or settings().service_port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as exc:
            raise ConfigurationError(f"cannot listen on {host}:{port}: {exc.strerror}; choose another --port") from exc
    # BentoML empties the metrics folder of its home at start: each port needs its own.
    os.environ.setdefault("BENTOML_HOME", str(settings().home / "bentoml" / str(port)))
    os.environ.setdefault("BENTOML_DO_NOT_TRACK", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    sys.stdout.flush()
    arguments = ["-m", "bentoml", "serve", "services.detector.service:Detector", "--host", host, "--port", str(port)]
    os.execv(sys.executable, [sys.executable, *arguments])
