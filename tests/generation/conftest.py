from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
CIFAKE = str(Path(sys.executable).with_name("cifake"))
TORCH_ENVIRONMENT = CHECKOUT / ".venv-generate" / "bin"

Run = Callable[..., subprocess.CompletedProcess[str]]


def contents(folder: Path) -> dict[str, bytes]:
    """Relative path → bytes of every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def last_json(done: subprocess.CompletedProcess[str]) -> dict:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def run(home: Path) -> Run:
    """`run("plan", "--count", "60", …)`: `cifake generate …` as its own process on this test's store."""

    def call(*arguments: object, program: str = CIFAKE, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [program, "generate", *map(str, arguments)]
        env = os.environ | {"CIFAKE_HOME": str(home)} | environment
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)

    return call


@pytest.fixture(scope="session")
def torch_environment() -> Path:
    """The `bin` folder of the environment with torch and diffusers."""
    if not (TORCH_ENVIRONMENT / "cifake").exists():
        pytest.skip("NOT TESTED, Stable Diffusion and training: no .venv-generate; run `make setup-generate`")
    return TORCH_ENVIRONMENT


@pytest.fixture(scope="session")
def tiny_model(torch_environment: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Stable Diffusion with small random weights, in diffusers' layout."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    builder = Path(__file__).with_name("tiny_stable_diffusion.py")
    command = [str(torch_environment / "python"), str(builder), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder
