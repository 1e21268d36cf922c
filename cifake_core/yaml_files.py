"""YAML files of the user's: read, and checked against a model; what is wrong is one line that names the place."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from cifake_core.errors import ConfigurationError

M = TypeVar("M", bound=BaseModel)


def read(file: Path) -> Any:
    """What a YAML file says; None when it is empty.

    Raises:
        ConfigurationError: unreadable, or not YAML.
    """
    import yaml

    try:
        return yaml.safe_load(file.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as exc:
        raise ConfigurationError(f"{file}: not a readable YAML file ({str(exc).splitlines()[0]})") from exc


def parse(file: Path, model: type[M]) -> M:
    """A YAML file as a model.

    Raises:
        ConfigurationError: as `read`; a field that is unknown, missing or out of range.
    """
    try:
        return model.model_validate(read(file))
    except ValidationError as exc:
        # An unknown key first: what it was meant for is then missing, too.
        problem = min(exc.errors(), key=lambda each: each["type"] != "extra_forbidden")
        where = ".".join(map(str, problem["loc"]))
        raise ConfigurationError(f"{file}: {f'{where}: ' if where else ''}{problem['msg']}") from exc
