"""Each environment holds what it is for, and what must start quickly imports nothing heavy."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

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


def test_the_command_line_and_the_help_of_every_verb_import_nothing_heavy():
    code = "import cifake_core.cli as c\nfor v in c.VERBS: c.main.get_command(None, v)\n"
    assert run(sys.executable, code + loaded(HEAVY)) == "[]"


def test_dags_import_nothing_heavy(tmp_path):
    files = sorted(p.stem for p in (CHECKOUT / "dags").glob("*.py"))
    code = f"import sys; sys.path.insert(0, 'dags')\nfor d in {files!r}: __import__(d)\n"
    found = run(CHECKOUT / ".venv-airflow/bin/python", code + loaded(HEAVY), AIRFLOW_HOME=str(tmp_path))
    assert found == "[]"


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
