from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
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


@dataclass
class TorchForks:
    """Runs scripts in the environment with torch; none of them waits for the import of torch."""

    process: subprocess.Popen[str]
    folder: Path

    def __call__(self, script: Path, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        """As `subprocess.run([python, script, *arguments])` would, with an environment of this process and more."""
        out, err = self.folder / "out", self.folder / "err"
        argv = [str(script), *map(str, arguments)]
        asked = {"argv": argv, "environment": {**os.environ, **environment}, "out": str(out), "err": str(err)}
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        code = int(self.process.stdout.readline())
        return subprocess.CompletedProcess(argv, code, out.read_text(), err.read_text())


@pytest.fixture(scope="session")
def torch_forks(torch_environment: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TorchForks]:
    """One process with torch for the session. It knows no hub but a closed port, and computes by one thread."""
    folder = tmp_path_factory.mktemp("torch")
    hub = {"HF_HOME": str(folder / "hub"), "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0"}
    environment = os.environ | hub | {"OMP_NUM_THREADS": "1"}
    command = [str(torch_environment / "python"), str(Path(__file__).with_name("torch_forks.py"))]
    with subprocess.Popen(
        command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == "ready\n"
        yield TorchForks(process, folder)
        process.kill()  # a polite end of PyTorch takes seconds


@pytest.fixture(scope="session")
def tiny_model(torch_forks: TorchForks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Stable Diffusion with small random weights, in diffusers' layout."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    done = torch_forks(Path(__file__).with_name("tiny_stable_diffusion.py"), folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def torch_run(torch_forks: TorchForks, torch_environment: Path, home: Path) -> Run:
    """As `run`, in the environment with torch."""

    def call(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        where = {"CIFAKE_HOME": str(home), **environment}
        return torch_forks(torch_environment / "cifake", "generate", *arguments, **where)

    return call
