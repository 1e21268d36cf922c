"""What a training is asked for, and the fingerprint under which it can be interrupted and continued."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from cifake_core.images.codec import SIZE

# Raised when a change makes checkpoints of before unfit to be continued: other variables, another order of images.
FORMAT = 1


class Options(BaseModel, frozen=True):
    """One training. The defaults are the paper's way, at 32×32."""

    model_config = ConfigDict(extra="forbid")

    topology: str = "seed"
    epochs: Annotated[int, Field(ge=1)] = 5
    batch_size: Annotated[int, Field(ge=1)] = 32
    learning_rate: Annotated[float, Field(gt=0)] = 0.001
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    image_size: Annotated[int, Field(ge=8, le=512)] = SIZE


@cache
def code_sha256() -> str:
    """Hash of this room's source: which code made a model, whether or not there is a git checkout."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def fingerprint(options: Options, *context: str) -> str:
    """Names a training: equal for the same options, dataset version and tracking server (`context`), and FORMAT."""
    said = json.dumps([FORMAT, options.model_dump(), context], sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()[:16]
