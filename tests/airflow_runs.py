"""Airflow as tests run it: from its own environment, in a folder of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.conftest import CHECKOUT

BIN = CHECKOUT / ".venv-airflow/bin"


def environment(folder: Path, base: Mapping[str, str] | None = None, **given: str) -> dict[str, str]:
    """What an Airflow in `folder` needs, on top of `base` (this process's by default)."""
    return {
        **(os.environ if base is None else base),
        "AIRFLOW_HOME": str(folder),
        "AIRFLOW__CORE__DAGS_FOLDER": str(CHECKOUT / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT": "150",  # a busy machine
        **given,
    }


def run(environment: Mapping[str, str], program: str, *arguments: str, seconds: float = 1200) -> tuple[int, str]:
    """Run `airflow` or `python` of its environment: exit code, and what it said."""
    command = [str(BIN / program), *arguments]
    done = subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, timeout=seconds)
    return done.returncode, done.stdout + done.stderr


def migrate(folder: Path) -> None:
    """Make the database of an Airflow in `folder`."""
    code, said = run(environment(folder), "airflow", "db", "migrate", seconds=600)
    assert code == 0, said[-3000:]


def dags_test(environment: Mapping[str, str], dag: str, conf: Mapping[str, Any], database: Path) -> tuple[int, str]:
    """`airflow dags test`, on a copy of a migrated database."""
    home = Path(environment["AIRFLOW_HOME"])
    home.mkdir(parents=True, exist_ok=True)
    shutil.copy(database, home)
    return run(environment, "airflow", "dags", "test", dag, "--conf", json.dumps(conf))


def load(environment: Mapping[str, str], code: str, *arguments: str) -> dict[str, Any]:
    """What Python code in Airflow's environment prints as JSON after `RESULT `."""
    _, said = run(environment, "python", "-c", code, *arguments, seconds=240)
    line = next((each for each in said.splitlines() if each.startswith("RESULT ")), None)
    assert line, said[-2000:]
    found: dict[str, Any] = json.loads(line.removeprefix("RESULT "))
    return found
