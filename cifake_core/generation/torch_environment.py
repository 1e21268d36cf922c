"""PyTorch has an environment of its own; a verb that needs it goes on there."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

from cifake_core.settings import CHECKOUT, settings


def enter() -> None:
    """Where this environment has no torch, and the one with torch is there: run this very command in that one instead.

    The process is replaced, so signals, exit code and output stay those of one command. Only for the command line.
    """
    program = _folder() / "bin" / "cifake"
    if importlib.util.find_spec("torch") or Path(sys.prefix) == _folder() or not program.exists():
        return
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(program, [str(program), *sys.argv[1:]])


def missing(who: str) -> str:
    """What to say where torch cannot be imported."""
    return f"{who} needs torch and diffusers: run `make setup-generate`, or pip install 'cifake[generate]'"


def _folder() -> Path:
    given = settings().torch_environment
    return given.expanduser().absolute() if given else (CHECKOUT or Path.cwd()) / ".venv-generate"
