"""What is asked of a text-to-image generator: classes and their prompts, as data.

The default is Table 1 of the CIFAKE work: ten classes, three modifiers each. A user's file adds classes, prompts or
whole domains in the same form.
"""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from cifake_core.errors import ConfigurationError

TABLE_1 = Path(__file__).with_name("table1.json")


class Prompts(BaseModel, frozen=True):
    """Class name → its prompts, at least one class and one prompt each; order is kept and matters to a plan."""

    model_config = ConfigDict(extra="forbid")

    classes: dict[str, list[str]] = Field(min_length=1)

    @field_validator("classes")
    @classmethod
    def _filled(cls, classes: dict[str, list[str]]) -> dict[str, list[str]]:
        for name, prompts in classes.items():
            if not name.strip() or "/" in name:
                raise ValueError(f"class name {name!r} is empty or holds a slash")
            if not prompts or not all(prompt.strip() for prompt in prompts):
                raise ValueError(f"class {name!r} needs at least one prompt, none of them empty")
        return classes


def load(file: Path | None = None) -> Prompts:
    """Prompts from a JSON file `{"classes": {"CLASS": ["PROMPT", …], …}}`; Table 1 by default.

    Raises:
        ConfigurationError: no such file, not JSON, an unknown key, an empty class or prompt.
    """
    path = file or TABLE_1
    try:
        return Prompts.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except OSError as exc:
        raise ConfigurationError(f"{path}: cannot be read ({exc.strerror})") from exc
    except ValueError as exc:
        raise ConfigurationError(f"{path}: {_problem(exc)}") from exc


def _problem(exc: ValueError) -> str:
    if not isinstance(exc, ValidationError):
        return f"not JSON ({exc})"
    problem = exc.errors()[0]
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f'unknown key {where!r}; the only key is "classes": {{"CLASS": ["PROMPT", …]}}'
    return f"{where}: {problem['msg'].removeprefix('Value error, ')}" if where else problem["msg"]
