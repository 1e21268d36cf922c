"""What the service answers and accepts, as Pydantic models: the OpenAPI document is made from them."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field

from cifake_core.explain.explainer import METHODS
from cifake_core.explain.overlay import COLORMAPS

Label = Literal["REAL", "FAKE", "UNSURE"]
REQUEST_ID = "[A-Za-z0-9._-]{8,64}"  # what is accepted as one
if TYPE_CHECKING:
    Method = str
    Colormap = str
else:
    Method = Literal[METHODS]
    Colormap = Literal[COLORMAPS]


class Model(BaseModel):
    """Which model answered."""

    name: str = Field(examples=["cifake-detector"])
    version: int = Field(examples=[7])
    dataset_version: str = Field(examples=["0f3a91c2d4e5b6a7"])
    topology: str = Field(examples=["seed"])


class Image(BaseModel):
    """What came in and what was done to it before the model saw it."""

    format: str = Field(examples=["PNG"])
    width: int = Field(examples=[640])
    height: int = Field(examples=[480])
    resized: bool = Field(description="Centre-cropped and resized to the model's size.")
    reencoded: bool = Field(description="Encoded as the training data is: JPEG, quality 75, 4:2:0.")


class Verdict(BaseModel):
    """What the model says of one image."""

    label: Label
    probability_real: float = Field(ge=0, le=1, examples=[0.0312])
    threshold: float = Field(description="REAL at or above this probability.", examples=[0.5])
    unsure: tuple[float, float] | None = Field(description="Probabilities strictly between are answered UNSURE.")
    image: Image
    warnings: list[str] = Field(description="Why this verdict deserves less trust than most.")


class Served(BaseModel):
    """What every answer says of the model and of itself."""

    model: Model
    latency_ms: float = Field(default=0, description="Time in the service after the body was read.", examples=[1.3])
    request_id: str = Field(default="", examples=["5f0c54a1f4d04d7f8a3a2d4b8a7f3c21"])


class Classification(Verdict, Served):
    """A verdict on one image."""


class Problem(BaseModel):
    """An error's body, RFC 9457: https://www.rfc-editor.org/rfc/rfc9457."""

    type: str = Field(examples=["urn:cifake:problem:unsupported_format"])
    title: str = Field(examples=["Not a JPEG, PNG or WebP image"])
    status: int = Field(examples=[415])
    detail: str = Field(examples=["not a JPEG, PNG or WebP image"])
    code: str = Field(description="Stable, for programs.", examples=["unsupported_format"])
    request_id: str | None = None


class BatchItem(BaseModel):
    """One image of a batch: its verdict, or the problem with it."""

    verdict: Verdict | None = None
    problem: Problem | None = None


class Batch(Served):
    """Verdicts on several images, in the order they were sent."""

    results: list[BatchItem]


class ExplainOptions(BaseModel):
    """How to explain."""

    model_config = ConfigDict(extra="forbid")

    method: Method = Field(
        "gradcam",
        description="How evidence is found; `smooth-` averages over noisy copies. `/model` lists those that fit.",
    )
    block: str = Field(
        "", description="A convolution block of the model, several joined by `,`, or `all`; default last."
    )
    target: Literal["predicted", "REAL", "FAKE"] = Field("predicted", description="The label the map speaks for.")
    guided: bool = Field(False, description="Let the heatmap follow the image's edges.")
    size: int = Field(256, ge=32, le=1024, description="Pixels of each panel's side.")
    colormap: Colormap = Field("inferno")
    alpha: float = Field(0.5, ge=0, le=1, description="How strongly the heatmap covers the image in the overlay.")


class HeatmapAnswer(Verdict, Served):
    """A heatmap as numbers."""

    method: str = Field(examples=["gradcam"])
    blocks: list[str] = Field(description="The convolution blocks it came from.", examples=[["block3"]])
    target: Literal["REAL", "FAKE"] = Field(description="The label the map speaks for.")
    seen: str = Field(description="The image that was looked at, as a data: URL of a JPEG.")
    heatmap: list[list[float]] = Field(description="Rows of the image's size, 0…1.")
    faithfulness: float | None = Field(
        description="Insertion minus deletion area under the curve of the target's probability, −1…1.", examples=[0.31]
    )


class Feedback(BaseModel):
    """The true label of an image that was answered before."""

    model_config = ConfigDict(extra="forbid")

    request_id: str = Field(
        pattern=f"^{REQUEST_ID}$",
        description="The answer's `request_id`.",
        examples=["5f0c54a1f4d04d7f8a3a2d4b8a7f3c21"],
    )
    label: Literal["REAL", "FAKE"] = Field(description="What the image truly is.")
    index: int = Field(0, ge=0, le=1023, description="Which image of a batch, from 0.")


class FeedbackReceipt(BaseModel):
    """What was kept, and what the verdict had been; `correct` is null for UNSURE."""

    model_config = ConfigDict(protected_namespaces=())

    request_id: str
    index: int
    label: Literal["REAL", "FAKE"]
    verdict: Label
    correct: bool | None
    model_version: int


class Block(BaseModel):
    """A convolution block that can be explained."""

    name: str
    height: int
    width: int
    channels: int


class ModelCard(BaseModel):
    """What the served model says of itself."""

    model: Model
    image_size: int
    parameters: int
    threshold: float
    unsure: tuple[float, float] | None
    blocks: list[Block]
    methods: list[str] = Field(description="Ways to explain this model; `attention-rollout` needs attention.")
    colormaps: list[str]
    run_id: str | None
    created: datetime | None


class Status(BaseModel):
    """Which model is served, since when, and what keeps a newer one away."""

    ready: bool
    model: Model | None
    since: datetime | None = Field(description="When this worker began to serve the model.")
    from_cache: bool | None = Field(
        description="The version served last, or the detector that ships: no answer or no champion from the registry."
    )
    challenger: int | None = Field(default=None, description="The version that scores in the shadow, in that mode.")
    problem: str | None = Field(description="Why the registry's champion may not be the one being served.")
    checked: datetime | None = Field(description="When the registry was last asked.")
