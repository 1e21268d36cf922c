"""Prometheus' own programs, on free loopback ports; each is stopped by pid."""

from __future__ import annotations

import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import CHECKOUT
from tests.servers import free_ports
from tests.waiting import wait_for

TOOLS = CHECKOUT / ".venv-prometheus"


@pytest.fixture(scope="session")
def prometheus_tools() -> Path:
    """The folder with prometheus, prometheus-alertmanager, prometheus-pushgateway, promtool and amtool."""
    wanted = ("prometheus", "prometheus-alertmanager", "prometheus-pushgateway", "promtool", "amtool")
    done = subprocess.run([CHECKOUT / "scripts/prometheus-tools", TOOLS, *wanted], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(done.stderr.strip())
    return TOOLS


def answers(url: str) -> bool:
    """Does an address answer 200?"""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


@contextmanager
def running(command: list[str | Path], folder: Path, health: str) -> Iterator[None]:
    """A program that is up inside the block."""
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
    try:
        wait_for(lambda: answers(health) or process.poll() is not None, 120, str(command[0]))
        assert process.poll() is None, (folder / "log").read_text()[-2000:]
        yield
    finally:
        process.kill()
        process.wait(30)


@pytest.fixture(scope="session")
def gateway(prometheus_tools: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a push gateway."""
    url = f"http://127.0.0.1:{free_ports(1)[0]}"
    command: list[str | Path] = [prometheus_tools / "prometheus-pushgateway"]
    command.append(f"--web.listen-address={url.removeprefix('http://')}")
    with running(command, tmp_path_factory.mktemp("gateway"), f"{url}/-/ready"):
        yield url
