"""Each environment installs and imports alone, and what must start quickly imports nothing heavy."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
HEAVY = (
    "tensorflow",
    "keras",
    "torch",
    "diffusers",
    "mlflow",
    "great_expectations",
    "onnxruntime",
    "pyarrow",
    "sklearn",
)
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


def run(python: Path | str, code: str, **environment: str) -> str:
    done = subprocess.run(
        [python, "-c", code],
        cwd=CHECKOUT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip().splitlines()[-1] if done.stdout.strip() else ""


def loaded(heavy: tuple[str, ...]) -> str:
    return f"import sys; print(sorted(set({heavy!r}) & {{m.split('.')[0] for m in sys.modules}}))"


def imports(modules: str, absent: str) -> str:
    return (
        f"import importlib, importlib.util as u\n"
        f"for name in {modules.split()!r}: importlib.import_module(name)\n"
        f"print([name for name in {absent.split()!r} if u.find_spec(name)])"
    )


def lend_bytecode(ours: Path, theirs: Path) -> None:
    """Let an environment find what another one has compiled of the same files; Python looks whether it still fits."""
    ours, theirs = (next(venv.glob("lib/python*/site-packages")) for venv in (ours, theirs))
    for compiled in ours.rglob("__pycache__"):
        beside = theirs / compiled.relative_to(ours)
        if beside.parent.is_dir() and not beside.exists():
            beside.symlink_to(compiled)


def test_the_command_line_and_the_help_of_every_verb_import_nothing_heavy():
    code = "import cifake_core.cli as c\nfor v in c.VERBS: c.main.get_command(None, v)\n"
    assert run(sys.executable, code + loaded(HEAVY)) == "[]"


def test_dags_import_nothing_heavy(tmp_path):
    files = sorted(p.stem for p in (CHECKOUT / "dags").glob("*.py"))
    code = f"import sys; sys.path.insert(0, 'dags')\nfor d in {files!r}: __import__(d)\n"
    found = run(CHECKOUT / ".venv-airflow/bin/python", code + loaded(HEAVY), AIRFLOW_HOME=str(tmp_path))
    assert found == "[]"


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


def test_airflows_environment_holds_no_machine_learning(tmp_path):
    code = imports("airflow airflow.providers.cncf.kubernetes.operators.pod", "tensorflow torch mlflow bentoml")
    assert run(CHECKOUT / ".venv-airflow/bin/python", code, AIRFLOW_HOME=str(tmp_path)) == "[]"


def test_a_second_set_up_installs_nothing():
    before = {p: p.stat().st_mtime_ns for p in CHECKOUT.glob(".venv*/.stamp")}
    done = subprocess.run(
        ["scripts/setup", "ml", "airflow", "serve", "generate"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, "")
    assert {p: p.stat().st_mtime_ns for p in CHECKOUT.glob(".venv*/.stamp")} == before
