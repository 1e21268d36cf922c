"""Fixtures of the tests that run the project's images. They take minutes: `make test-images` asks for them."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

CHECKOUT = Path(__file__).resolve().parents[2]
USER = 10001
HARDENED = (
    *("--read-only", "--read-only-tmpfs=false", "--tmpfs=/tmp:mode=1777", "--cap-drop=all"),
    *("--security-opt=no-new-privileges", f"--user={USER}:{USER}"),
)


@dataclass(frozen=True)
class Podman:
    """The podman that has the images, and their names."""

    command: str
    images: str
    tag: str

    def __call__(self, *arguments: str | Path, check: bool = True, timeout: float = 300, **more: Any) -> str:
        """Run it; its standard output."""
        done = self.run(*arguments, timeout=timeout, **more)
        if check and done.returncode:
            shown = " ".join(map(str, arguments))
            pytest.fail(f"podman {shown}: {done.returncode}\n{done.stdout[-1500:]}\n{done.stderr[-3000:]}")
        return str(done.stdout)

    def run(self, *arguments: str | Path, timeout: float = 300, **more: Any) -> subprocess.CompletedProcess[str]:
        """Run it; all that came of it."""
        return subprocess.run(
            [self.command, *arguments], cwd=CHECKOUT, capture_output=True, text=True, timeout=timeout, **more
        )

    def image(self, role: str) -> str:
        """The image of a role; skips the test when it was not built."""
        name = f"{self.images}/{role}:{self.tag}"
        self.need(name)
        return name

    def need(self, *names: str) -> None:
        """Skip the test unless these images are here."""
        for name in names:
            if self.run("image", "exists", name).returncode:
                pytest.skip(f"no image {name}: run `make images` or `make images-offline`")

    def healthy(self, container: str, seconds: float = 120) -> None:
        """Wait until a container's own health check passes. Nothing else runs it where there is no systemd."""
        wait_for(
            lambda: self.run("healthcheck", "run", container).returncode == 0, seconds, lambda: self.logs(container)
        )

    def logs(self, container: str) -> str:
        """What a container said."""
        done = self.run("logs", "--tail", "60", container)
        return done.stdout + done.stderr


def wait_for(condition: Callable[[], Any], seconds: float, otherwise: Callable[[], str] = str) -> Any:
    """The condition's first true value; fails the test with `otherwise` when there is none in time."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"not in {seconds:.0f} s:\n{otherwise()}")
        time.sleep(0.5)
    return found


def picture() -> bytes:
    """An image to ask about."""
    from PIL import Image

    image = io.BytesIO()
    Image.linear_gradient("L").resize((32, 32)).convert("RGB").save(image, "JPEG", quality=75)
    return image.getvalue()


def classified(service: str) -> dict[str, Any]:
    """A detector's answer on it, by the detector's URL."""
    answer = requests.post(f"{service}/classify", data=picture(), timeout=30)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def answers(url: str) -> bool:
    """Does something answer here with success?"""
    try:
        return requests.get(url, timeout=5).ok
    except requests.RequestException:
        return False


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def last_json(output: str) -> dict[str, Any]:
    """The result that a verb printed on its last line."""
    return dict(json.loads(output.splitlines()[-1]))


@pytest.fixture(scope="session")
def podman() -> Podman:
    """The podman to test with; skips where these tests were not asked for."""
    if os.environ.get("CIFAKE_TEST_IMAGES") != "1":
        pytest.skip("images are tested by `make test-images`, which needs podman and built images")
    own = CHECKOUT / "scripts/containers/podman"
    asked = os.environ.get("CONTAINER_TOOL") or os.environ.get("CIFAKE_CONTAINER_TOOL")
    command = asked or (shutil.which("podman") if os.getuid() else str(own)) or "podman"
    if subprocess.run([command, "version"], cwd=CHECKOUT, capture_output=True).returncode:
        pytest.skip(f"no podman: {command} does not run")
    version = re.search(r'^version = "(.*)"', (CHECKOUT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version
    images = os.environ.get("IMAGES", "localhost/cifake")
    return Podman(str(command), images, os.environ.get("TAG", version[1]))


@pytest.fixture(scope="session")
def shared() -> Iterator[Path]:
    """A CIFAKE_HOME that belongs to the images' user, for the session's containers."""
    folder = Path(tempfile.mkdtemp(prefix="cifake-home-"))
    shutil.chown(folder, USER, USER)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def cifake(podman: Podman, shared: Path, image_source: str, real_data: str | None) -> Callable[..., dict[str, Any]]:
    """`cifake(role, *arguments)`: run a verb in a hardened container of a role's image; its JSON result."""
    if image_source != (real_data or ""):
        Path(image_source).chmod(0o755)  # pytest's folders are closed to others, such as the images' user

    def run(role: str, *arguments: str, timeout: float = 600) -> dict[str, Any]:
        where = ["--network=none", f"--volume={shared}:/var/lib/cifake"]
        if image_source:
            where += [f"--volume={image_source}:/data:ro", "--env=CIFAKE_DATA=/data"]
        image = podman.image(role)
        return last_json(
            podman("run", "--rm", *HARDENED, *where, image, "cifake", *arguments, "--json", timeout=timeout)
        )

    return run
