"""What a training is asked for, recipes that name it, and the fingerprint under which it can be continued."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from cifake_core import yaml_files
from cifake_core.errors import ConfigurationError
from cifake_core.images.codec import SIZE
from cifake_core.training.augmentation import Augmentation

Versions = tuple[Annotated[int, Field(ge=1)], ...]  # of the registered model
RECIPES = Path(__file__).with_name("recipes")
# Raised when a change makes checkpoints of before unfit to be continued: other variables, another order of images.
FORMAT = 1


class Options(BaseModel, frozen=True):
    """One training. The defaults are the paper's way, at 32×32."""

    model_config = ConfigDict(extra="forbid")

    topology: str = "seed"
    epochs: Annotated[int, Field(ge=0, description="0: what the versions given make, as it is.")] = 5
    batch_size: Annotated[int, Field(ge=1)] = 32
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    image_size: Annotated[int, Field(ge=8, le=512)] = SIZE
    optimizer: Literal["adam", "adamw", "muon"] = "adam"
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.001
    weight_decay: Annotated[float, Field(ge=0, description="Of kernels only; not Adam's.")] = 0
    schedule: Literal["constant", "one-cycle"] = "constant"
    patience: Annotated[int, Field(ge=0, description="Stop after so many epochs without a lower loss; 0: never.")] = 0
    average: Annotated[float, Field(ge=0, lt=1, description="Momentum of the weights' moving average; 0: none.")] = 0
    members: Annotated[Versions, Field(description="Whose networks to put side by side, an ensemble.")] = ()
    start: Annotated[
        Versions, Field(description="Whose weights' mean to go on from; none: new ones.", validate_default=True)
    ] = ()
    teachers: Annotated[Versions, Field(description="Whose mean answer is learnt; none: the labels.")] = ()
    generator_share: Annotated[
        float,
        Field(ge=0, le=0.5, description="Each generator's smallest share of FAKE, which are as many as REAL."),
    ] = 0
    augmentation: Augmentation = Augmentation()

    @field_validator("start")
    @classmethod
    def _says_whose_weights(cls, start: Versions, known: ValidationInfo) -> Versions:
        members = known.data.get("members")
        if start and members:
            raise ValueError("versions are started from, or members of an ensemble, not both")
        if not start and not members and known.data.get("epochs") == 0:
            raise ValueError("without epochs there must be versions to start from")
        return start

    def parameters(self) -> dict[str, Any]:
        """Every option by name, those of the augmentation as `augmentation.NAME`."""
        plain = self.model_dump()
        return plain | {f"augmentation.{name}": value for name, value in plain.pop("augmentation").items()}


def recipes() -> list[str]:
    """The names of the recipes that ship."""
    return sorted(file.stem for file in RECIPES.glob("*.yaml"))


def options(recipe: str | None = None, **given: Any) -> Options:
    """Options from a recipe and what was given beside it; the latter wins.

    Args:
        recipe: a name of `recipes()`, or a YAML file with fields of `Options`; the paper's way by default.

    Raises:
        ConfigurationError: no such recipe, or a field that is unknown or out of range; the message names it.
    """
    fields: Any = {}
    if recipe:
        file = RECIPES / f"{recipe}.yaml" if recipe in recipes() else Path(recipe)
        if not file.is_file():
            raise ConfigurationError(f"no recipe {recipe!r}; known: {', '.join(recipes())}, or a YAML file of your own")
        fields = yaml_files.read(file) or {}
        if not isinstance(fields, dict):
            raise ConfigurationError(f"{file}: a recipe is a table of options, such as `topology: seed`")
    try:
        return Options.model_validate(fields | given)
    except ValidationError as exc:
        problem = exc.errors()[0]
        path = ".".join(str(part) for part in problem["loc"])
        where = f"recipe {recipe}: {path}" if recipe and path not in given else f"--{path.replace('_', '-')}"
        raise ConfigurationError(f"{where}: {problem['msg']}") from exc


@cache
def code_sha256() -> str:
    """Hash of this room's source: which code made a model, whether or not there is a git checkout."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def fingerprint(options: Options, *context: str) -> str:
    """Names a training: equal for the same options, context (dataset version, tracking server, sweep) and FORMAT."""
    said = json.dumps([FORMAT, options.model_dump(), context])  # unsorted: the order of damages decides draws
    return hashlib.sha256(said.encode()).hexdigest()[:16]
