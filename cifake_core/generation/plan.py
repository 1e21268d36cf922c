"""A plan: which images are to be drawn, as shards that do not depend on how many workers draw them."""

from __future__ import annotations

import hashlib
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from cifake_core.errors import ConfigurationError, DatasetError
from cifake_core.generation import generators
from cifake_core.generation.generators import Request
from cifake_core.generation.prompts import Prompts
from cifake_core.images.collection import PLAN_FILE
from cifake_core.settings import CLASSES
from cifake_core.storage import Store

ROWS_PER_SHARD = 500
TEST_SHARE = 6  # one image in six is for the test side, as in the paper: 50,000 + 10,000


class Shard(BaseModel, frozen=True):
    """Images `start` … `start + rows - 1` of one side, class and prompt, drawn and written together."""

    model_config = ConfigDict(extra="forbid")

    name: str
    side: Literal["train", "test"]
    object_class: str
    prompt: str | None
    start: int
    rows: int


class Plan(BaseModel, frozen=True):
    """All shards of one order. Equal orders give equal plans, and a plan's name is its hash."""

    model_config = ConfigDict(extra="forbid")

    format: Literal[1] = 1
    generator: str
    model_revision: str
    seed: int
    shards: list[Shard]

    @property
    def name(self) -> str:
        """Generator and content hash: the plan's folder under `generation/`."""
        return f"{self.generator}-{hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:12]}"

    @property
    def folder(self) -> str:
        """Where the plan and its finished shards are in the store: a collection."""
        return f"generation/{self.name}"

    @property
    def rows(self) -> int:
        """How many images there will be."""
        return sum(shard.rows for shard in self.shards)

    def shard(self, name: str) -> Shard:
        """The shard of this name or number.

        Raises:
            ConfigurationError: the plan has no such shard.
        """
        for number, shard in enumerate(self.shards):
            if name in (shard.name, str(number)):
                return shard
        raise ConfigurationError(f"plan {self.name} has no shard {name!r}; it has 0 … {len(self.shards) - 1}")

    def requests(self, shard: Shard) -> list[Request]:
        """What to draw for a shard, one request a row. A row's seed depends on the plan's seed and its own place."""
        return [
            Request(shard.object_class, shard.prompt, _seed(self.seed, shard, index))
            for index in range(shard.start, shard.start + shard.rows)
        ]


def _seed(seed: int, shard: Shard, index: int) -> int:
    text = f"{seed}|{shard.side}|{shard.object_class}|{shard.prompt}|{index}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def make(generator: str, train_rows: int, test_rows: int, seed: int = 0, prompts: Prompts | None = None) -> Plan:
    """Plan `train_rows` + `test_rows` images, balanced over classes and, within a class, over its prompts.

    Args:
        prompts: what to ask for; generators told the class only draw the ten CIFAR-10 classes.

    Raises:
        ConfigurationError: unknown generator, nothing to draw, or prompts for a generator that takes none.
    """
    entry = generators.named(generator)
    if min(train_rows, test_rows) < 0 or train_rows + test_rows == 0:
        raise ConfigurationError("nothing to generate: ask for at least one row")
    asked: dict[str, list[str | None]] = {}
    if entry.told == "class":
        if prompts is not None:
            raise ConfigurationError(f"generator {generator!r} takes no prompts: it draws the ten CIFAR-10 classes")
        asked = {name: [None] for name in CLASSES}
    else:
        from cifake_core.generation import prompts as defaults

        asked = {name: list(texts) for name, texts in (prompts or defaults.load()).classes.items()}
    shards: list[Shard] = []
    sides: tuple[tuple[Literal["train", "test"], int], ...] = (("train", train_rows), ("test", test_rows))
    for side, rows in sides:
        number = 0
        for name, class_rows in zip(asked, _shares(rows, len(asked)), strict=True):
            for prompt, prompt_rows in zip(asked[name], _shares(class_rows, len(asked[name])), strict=True):
                for start in range(0, prompt_rows, ROWS_PER_SHARD):
                    size = min(ROWS_PER_SHARD, prompt_rows - start)
                    shards.append(
                        Shard(
                            name=f"{side}-{number:05d}",
                            side=side,
                            object_class=name,
                            prompt=prompt,
                            start=start,
                            rows=size,
                        )
                    )
                    number += 1
    return Plan(generator=generator, model_revision=generators.revision(entry), seed=seed, shards=shards)


def _shares(total: int, parts: int) -> list[int]:
    return [total // parts + (index < total % parts) for index in range(parts)]


def save(store: Store, plan: Plan) -> str:
    """Put a plan into the store; returns its folder's URL."""
    store.write(f"{plan.folder}/{PLAN_FILE}", plan.model_dump_json(indent=2).encode())
    return store.url_of(plan.folder)


def load(store: Store, name: str) -> Plan:
    """A saved plan by name, or by its folder's URL.

    Raises:
        ConfigurationError: no such plan.
        DatasetError: the file is not a plan this code reads.
    """
    name = name.rstrip("/").rsplit("/", 1)[-1]
    file = f"generation/{name}/{PLAN_FILE}"
    if not store.exists(file):
        raise ConfigurationError(f"no plan {name!r} in {store.url}; make one with `cifake generate plan`")
    try:
        return Plan.model_validate_json(store.read(file))
    except ValidationError as exc:
        raise DatasetError(f"{store.url_of(file)}: not a plan ({exc.errors()[0]['msg']})") from exc
