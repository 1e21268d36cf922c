"""The gate's thresholds, as a YAML file has them."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, field_validator

from cifake_core import yaml_files

POLICY = Path(__file__).with_name("gates.yaml")


class Part(BaseModel, frozen=True):
    """A group of fields; an unknown one is refused."""

    model_config = ConfigDict(extra="forbid")


class AccuracyPolicy(Part, frozen=True):
    """Overall accuracy."""

    floor: float = Field(ge=0, le=1)
    minimum_gain: float = Field(ge=0, le=1)
    alpha: float = Field(gt=0, lt=1)


class SlicePolicy(Part, frozen=True):
    """Named slices."""

    tolerance: float = Field(ge=0, le=1)
    alpha: float = Field(gt=0, lt=1)
    damage_rows: int = Field(gt=0)
    overrides: dict[str, float] = {}


class ExplanationPolicy(Part, frozen=True):
    """How true heatmaps are to the model they explain."""

    method: str
    images: int = Field(gt=1)
    tolerance: float = Field(ge=0, le=2)
    alpha: float = Field(gt=0, lt=1)

    @field_validator("method")
    @classmethod
    def _explains_any_model(cls, method: str) -> str:
        from cifake_core.explain import explainer

        if method not in explainer.METHODS or method == explainer.ROLLOUT:
            raise ValueError(f"{method!r} is no method that explains any model")
        return method


class Bounds(Part, frozen=True):
    """Limits that hold without a champion to compare with."""

    ece: float = Field(gt=0, le=1)
    false_alarm_rate: float = Field(gt=0, le=1)
    latency_ms: float = Field(gt=0)
    size_mb: float = Field(gt=0)


class Required(Part, frozen=True):
    """Evidence that must be there."""

    validated: bool
    lineage: bool


class Policy(Part, frozen=True):
    """The thresholds of `gates.yaml`."""

    version: int
    accuracy: AccuracyPolicy
    slices: SlicePolicy
    explanations: ExplanationPolicy
    bounds: Bounds
    require: Required


def load_policy(path: Path = POLICY) -> Policy:
    """The thresholds in a YAML file.

    Raises:
        ConfigurationError: unreadable, an unknown key, or a value out of range.
    """
    return yaml_files.parse(path, Policy)
