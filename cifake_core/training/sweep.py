"""The paper's search: feature extractors first, then dense layers on the best of them; one MLflow run a network.

All that a sweep knows is in its MLflow run and the runs nested in it, so its members may be trained anywhere, in any
order, and again.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from cifake_core import yaml_files
from cifake_core.errors import ConfigurationError
from cifake_core.images import dataset
from cifake_core.mlflow_client import client, experiment_id, registry_errors
from cifake_core.storage import Store
from cifake_core.training import plots, topologies, tracking
from cifake_core.training.options import FORMAT, Options
from cifake_core.training.topologies import grid_name
from cifake_core.training.train import Trained, train
from cifake_core.verb import progress

GRIDS = Path(__file__).with_name("grids")
_TAG = "cifake.sweep"
Count = Annotated[int, Field(ge=1)]


class Extractors(BaseModel, frozen=True):
    """Every number of filters with every number of convolutions."""

    model_config = ConfigDict(extra="forbid")

    filters: Annotated[list[Count], Field(min_length=1)]
    convolutions: Annotated[list[Annotated[int, Field(ge=1, le=5)]], Field(min_length=1)]


class Heads(BaseModel, frozen=True):
    """Every number of units with every number of dense layers."""

    model_config = ConfigDict(extra="forbid")

    units: Annotated[list[Count], Field(min_length=1)]
    dense: Annotated[list[Annotated[int, Field(ge=1, le=9)]], Field(min_length=1)]


class Grid(BaseModel, frozen=True):
    """What a sweep tries. `options` are those of every training; its topology is the grid's to say."""

    model_config = ConfigDict(extra="forbid")

    extractors: Extractors
    heads: Heads | None = None
    options: Options = Options()

    def all_names(self) -> list[str]:
        """Whatever the sweep may come to train."""
        extractors = self.names()
        return [*extractors, *(name for extractor in extractors for name in self.names(extractor))]

    def names(self, best: str | None = None) -> list[str]:
        """The extractors' names, or, on the best of them, those with dense layers."""
        if best is None:
            return [grid_name(f, n) for n in self.extractors.convolutions for f in self.extractors.filters]
        filters, convolutions = _shape(best)
        heads = self.heads
        return [grid_name(filters, convolutions, u, d) for d in heads.dense for u in heads.units] if heads else []


class Member(BaseModel, frozen=True):
    """One trained network: accuracies 0–1, and what one image takes in ms on the machine that trained it."""

    topology: str
    run_id: str
    parameters: int
    val_accuracy: float
    accuracy: float
    latency_ms: float


class Part(BaseModel, frozen=True):
    """A sweep's run, and the topologies to train next; those that are trained already are skipped when asked for."""

    sweep: str
    topologies: list[str]


class Swept(BaseModel, frozen=True):
    """A finished sweep: members, best first by validation accuracy, and the version made of the best."""

    model_config = ConfigDict(protected_namespaces=())

    sweep: str
    dataset_version: str
    best: str
    model_version: int
    members: list[Member]


def load_grid(name: str = "paper") -> Grid:
    """A grid that ships, or one of the user's as a YAML file.

    Raises:
        ConfigurationError: no such grid, or a field that is unknown or out of range; the message names it.
    """
    file = GRIDS / f"{name}.yaml" if (GRIDS / f"{name}.yaml").is_file() else Path(name)
    if not file.is_file():
        known = ", ".join(sorted(f.stem for f in GRIDS.glob("*.yaml")))
        raise ConfigurationError(f"no grid {name!r}; known: {known}, or a YAML file of your own")
    grid = yaml_files.parse(file, Grid)
    for topology in grid.all_names():
        topologies.check(topology)
    return grid


def start(store: Store, version: str, grid: Grid) -> Part:
    """The sweep of a grid over a dataset version; the same again is the same sweep.

    Raises:
        ConfigurationError, DatasetError, RegistryError.
    """
    manifest = dataset.load(store, version)
    if not manifest.counts.get("validation"):
        raise ConfigurationError(
            f"dataset version {version} has no validation rows, which choose the best; build one with some"
        )
    said = json.dumps([FORMAT, version, grid.model_dump(mode="json")], sort_keys=True)
    name = hashlib.sha256(said.encode()).hexdigest()[:16]
    experiment = experiment_id()
    with registry_errors("open a sweep"):
        api = client()
        found = api.search_runs([experiment], f"tags.`{_TAG}` = '{name}'", max_results=1)
        run = found[0] if found else api.create_run(experiment, run_name=f"sweep-{version[:8]}", tags={_TAG: name})
        api.set_tag(run.info.run_id, "grid", grid.model_dump_json())
        api.set_tag(run.info.run_id, "dataset_version", version)
    return Part(sweep=run.info.run_id, topologies=grid.names())


def member(store: Store, sweep: str, topology: str) -> Trained | Member:
    """Train one network of a sweep; what was trained before is told, not trained.

    Raises:
        ConfigurationError, DatasetError, RegistryError, ModelError.
    """
    grid, version = _read(sweep)
    if topology not in grid.all_names():
        raise ConfigurationError(f"{topology!r} is not in the grid of sweep {sweep}; `cifake sweep` prints what is")
    for done in members(sweep):
        if done.topology == topology:
            return done
    return train(store, version, grid.options.model_copy(update={"topology": topology}), sweep)


def heads(sweep: str) -> Part:
    """The second half of a sweep: dense layers on its best extractor.

    Raises:
        ConfigurationError: extractors are missing.
        RegistryError: no such sweep, or MLflow is unreachable.
    """
    grid, _ = _read(sweep)
    return Part(sweep=sweep, topologies=grid.names(_best_extractor(sweep, grid)))


def report(sweep: str) -> Swept:
    """Draw the maps, and make the best network a version of the detector with the alias `challenger`.

    Raises:
        ConfigurationError: members are missing.
        RegistryError: no such sweep, or MLflow is unreachable.
    """
    grid, version = _read(sweep)
    done = members(sweep)
    extractor = _best_extractor(sweep, grid)
    _complete(done, grid.names(extractor))
    with TemporaryDirectory() as folder:
        _draw(grid, extractor, done, Path(folder))
        (Path(folder) / "members.json").write_text(json.dumps([each.model_dump() for each in done], indent=2))
        with registry_errors("log a sweep"):
            client().log_artifacts(sweep, folder)
            client().log_metric(sweep, "test_accuracy", done[0].accuracy)
    number = tracking.register(done[0].run_id, alias="challenger")
    with registry_errors("close a sweep"):
        client().set_terminated(sweep)
    return Swept(sweep=sweep, dataset_version=version, best=done[0].topology, model_version=number, members=done)


def run(store: Store, version: str, grid: Grid) -> Swept:
    """The whole sweep, one network after the other.

    Raises:
        ConfigurationError, DatasetError, RegistryError, ModelError.
    """
    import keras

    part = start(store, version, grid)
    for names in (lambda: part, lambda: heads(part.sweep)):
        for topology in progress(names().topologies, "networks"):
            member(store, part.sweep, topology)
            keras.backend.clear_session()
    return report(part.sweep)


def members(sweep: str) -> list[Member]:
    """The finished networks of a sweep, best first by validation accuracy; of equals, the smaller first.

    Raises:
        RegistryError: MLflow is unreachable.
    """
    experiment = experiment_id()
    with registry_errors("read a sweep"):
        runs = client().search_runs([experiment], f"tags.`mlflow.parentRunId` = '{sweep}'", max_results=1000)
    done = {}
    for found in runs:
        if tracking.OUTCOME in found.data.tags:
            outcome = json.loads(found.data.tags[tracking.OUTCOME])["tags"]
            done[outcome["topology"]] = Member(
                topology=outcome["topology"],
                run_id=found.info.run_id,
                parameters=int(outcome["parameters"]),
                val_accuracy=found.data.metrics["val_accuracy"],
                accuracy=found.data.metrics["test_accuracy"],
                latency_ms=found.data.metrics["test_latency_ms"],
            )
    return sorted(done.values(), key=lambda each: (-each.val_accuracy, each.parameters))


def _read(sweep: str) -> tuple[Grid, str]:
    with registry_errors(f"find sweep {sweep}"):
        tags = client().get_run(sweep).data.tags
    if _TAG not in tags:
        raise ConfigurationError(f"run {sweep} is not a sweep; `cifake sweep start` makes one")
    return Grid.model_validate_json(tags["grid"]), tags["dataset_version"]


def _best_extractor(sweep: str, grid: Grid) -> str:
    done = members(sweep)
    _complete(done, grid.names())
    return next(each.topology for each in done if each.topology in grid.names())


def _complete(done: list[Member], wanted: list[str]) -> None:
    if missing := [name for name in wanted if name not in {each.topology for each in done}]:
        raise ConfigurationError(f"the sweep lacks {', '.join(missing)}; train them first: `cifake sweep member`")


def _shape(extractor: str) -> tuple[int, int]:
    filters, convolutions = extractor.removeprefix("conv").split("x")
    return int(filters), int(convolutions)


def _draw(grid: Grid, extractor: str, done: list[Member], folder: Path) -> None:
    accuracy = {each.topology: each.accuracy for each in done}
    tables: list[tuple[str, str, list[int], str, list[int], Any]] = [
        *(
            [
                (
                    "extractors",
                    "filters",
                    grid.extractors.filters,
                    "convolutions",
                    grid.extractors.convolutions,
                    grid_name,
                )
            ]
        ),
    ]
    if grid.heads:
        shape = _shape(extractor)
        tables.append(
            ("heads", "units", grid.heads.units, "dense layers", grid.heads.dense, lambda u, d: grid_name(*shape, u, d))
        )
    for name, across, columns, down, rows, named in tables:
        values = np.array([[accuracy[named(column, row)] for column in columns] for row in rows])
        plots.heat_map(values, (across, columns), (down, rows), folder / f"{name}.png")
    plots.pareto(done, folder / "pareto.png")
