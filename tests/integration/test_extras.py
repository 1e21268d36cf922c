"""Each extra of the package installs and imports alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_environments import CHECKOUT, imports, run

UV = CHECKOUT / ".venv-tools/bin/uv"

# extra → what it is for must import, what belongs to another must not be there
EXTRAS = {
    "train": (
        "tensorflow mlflow great_expectations cifake_core.training.verbs cifake_core.validation.verbs",
        "bentoml",
    ),
    "serve": ("bentoml onnxruntime mlflow services.detector.service", "tensorflow torch great_expectations"),
    "dev": ("pytest hypothesis supervisor cifake_core.cli", "tensorflow torch mlflow airflow"),
}


def lend_bytecode(ours: Path, theirs: Path) -> None:
    """Let an environment find what another one has compiled of the same files; Python looks whether it still fits."""
    ours, theirs = (next(venv.glob("lib/python*/site-packages")) for venv in (ours, theirs))
    for compiled in ours.rglob("__pycache__"):
        beside = theirs / compiled.relative_to(ours)
        if beside.parent.is_dir() and not beside.exists():
            beside.symlink_to(compiled)


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_installs_and_imports_alone(extra, tmp_path):
    lock = "serve" if extra == "serve" else "ml"
    python = tmp_path / "venv/bin/python"
    subprocess.run([UV, "venv", "--quiet", "--python", sys.executable, tmp_path / "venv"], check=True)
    wanted = [UV, "pip", "install", "--quiet", "--python", python, "-c", f"locks/{lock}.txt", f".[{extra}]"]
    done = subprocess.run(wanted, cwd=CHECKOUT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    lend_bytecode(CHECKOUT / (".venv-serve" if extra == "serve" else ".venv"), tmp_path / "venv")
    modules, absent = EXTRAS[extra]
    assert run(python, imports(modules, absent), PYTHONDONTWRITEBYTECODE="1") == "[]"
