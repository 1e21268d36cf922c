"""Every CIFAKE_* environment variable, typed and documented, in one place.

Order: defaults here, then the environment, then command-line flags. MLflow's own
`MLFLOW_TRACKING_URI` is honoured as MLflow's users expect.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from cifake_core.errors import ConfigurationError

PACKAGE = Path(__file__).resolve().parent
CHECKOUT = PACKAGE.parent if (PACKAGE.parent / "pyproject.toml").exists() else None

MODEL_NAME = "cifake-detector"
EXPERIMENT = "cifake"
SHARD_POOL = "shards"  # of Airflow
FAKE, REAL = 0, 1
LABELS = ("FAKE", "REAL")
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class Settings(BaseSettings):
    """Values of the CIFAKE_* variables; unset ones take the defaults below."""

    model_config = SettingsConfigDict(env_prefix="CIFAKE_", frozen=True, extra="forbid", populate_by_name=True)

    home: Path = Field(
        default=CHECKOUT / ".cifake" if CHECKOUT else Path.home() / ".cifake",
        description="Local state: databases, caches, logs.",
    )
    data: str | None = Field(
        default=None,
        description="Folder or URL of real images: CIFAKE or CIFAR-10 as Parquet (hub layout) or Kaggle folders.",
    )
    store: str = Field(default="", description="Object store URL, file://… or s3://…; default: `store` in CIFAKE_HOME.")
    runtime: Literal["local", "docker", "kubernetes"] = Field(
        default="local", description="Where a DAG's steps run: a subprocess, a container, a pod."
    )
    images: str = Field(default="localhost/cifake", description="Where step images are, for the docker runtime.")
    image_tag: str = Field(default="0.1.0", description="Which version of them.")
    shards_at_once: int = Field(
        default=2, ge=1, description="Slots that Airflow's pool `shards` is made with: tasks that draw images at once."
    )
    trainings_at_once: int = Field(default=1, ge=1, description="Networks that a sweep's DAG trains at once.")
    docker_network: str = Field(default="", description="Network that step containers join, for the docker runtime.")
    tracking_uri: str = Field(
        default="",
        validation_alias="MLFLOW_TRACKING_URI",
        description="MLflow tracking server or database; default: SQLite in CIFAKE_HOME.",
    )
    host: str = Field(default="127.0.0.1", description="Address the local stack binds to.")
    airflow_port: int = Field(default=8080, ge=1, le=65535)
    mlflow_port: int = Field(default=5000, ge=1, le=65535)
    service_port: int = Field(default=3000, ge=1, le=65535)
    monitoring: bool = Field(default=False, description="Whether Prometheus and its like belong to the local stack.")
    prometheus_port: int = Field(default=9090, ge=1, le=65535)
    pushgateway_port: int = Field(default=9091, ge=1, le=65535)
    alertmanager_port: int = Field(default=9093, ge=1, le=65535)
    alert_webhook: str = Field(default="", description="URL that the local Alertmanager tells; nobody by default.")
    scrape_interval: str = Field(default="", description="How often the local Prometheus looks; default 15s.")
    prometheus_url: str = Field(default="", description="Where DAGs read figures; default: host and prometheus_port.")
    watch_policy: Path | None = Field(
        default=None, description="What `cifake watch` decides by; default: cifake_core/loop/policy.yaml."
    )
    service_url: str = Field(default="", description="Where the detector answers; default: host and service_port.")
    replicas_url: str = Field(
        default="", description="A name that resolves to every replica of the detector; default: CIFAKE_SERVICE_URL."
    )
    service_workers: int = Field(default=1, ge=1, le=64, description="Processes that answer requests.")
    service_slots: int = Field(default=0, ge=0, le=256, description="Images a worker works on at once; 0: one a core.")
    service_queue: int = Field(default=32, ge=0, description="Requests that may wait in a worker; more are refused.")
    max_batch: int = Field(default=64, ge=1, le=1024, description="Most images in one request.")
    auth: Literal["auto", "on", "off"] = Field(
        default="auto", description="Whether the service asks for API keys; auto: unless it binds to loopback."
    )
    api_keys: Path | None = Field(
        default=None, description="The service's file of lines `NAME SHA256` of its API keys."
    )
    rate_limit: float = Field(default=100, ge=0, description="Requests a second for each key and worker; 0: no limit.")
    api_key: str = Field(default="", description="The key this client sends to a service.")
    tracing: bool = Field(
        default=False, description="Make OpenTelemetry spans in the service; BentoML's configuration says for whom."
    )
    poll_seconds: float = Field(
        default=10.0, gt=0, description="How often a service worker looks at the champion alias."
    )
    drift_window_seconds: float = Field(default=900, gt=0, description="How far back the service's drift figures look.")
    drift_minimum: int = Field(default=200, ge=1, description="Values in that window below which it says nothing.")
    drift_images_per_second: float = Field(
        default=50,
        ge=0,
        description="Most images that a worker measures for drift; scores are all counted. 0: no limit.",
    )
    feedback_days: float = Field(default=30, gt=0, description="How long the service keeps verdicts for feedback.")
    webhook_secret: str = Field(
        default="", description="What MLflow signs its webhook's deliveries with; without one the service takes none."
    )
    shadow: float = Field(
        default=0, ge=0, le=1, description="Share of the traffic that the challenger scores too, for comparison only."
    )
    shipped: bool = Field(
        default=True, description="Whether the detector that ships with cifake answers while there is no champion."
    )
    unseen: str | None = Field(
        default=None, description="Parquet file of tiles by generators that training never saw, for evaluation."
    )
    generator_weights: str = Field(
        default="", description="Folder or URL of a diffusers model's files; default: the Hugging Face hub."
    )
    torch_environment: Path | None = Field(
        default=None, description="Virtual environment with torch; default: .venv-generate of the checkout."
    )
    torch_compile: bool = Field(default=False, description="Compile a diffusers model before it draws.")
    push_gateway: str = Field(
        default="", description="URL of a Prometheus push gateway, for figures of steps that end before a scrape."
    )
    actor: str = Field(default="", description="Who decides, as the registry's history records it; default: user@host.")
    max_image_bytes: int = Field(default=10_000_000, gt=0, description="Largest encoded image accepted, in bytes.")
    max_image_pixels: int = Field(default=40_000_000, gt=0, description="Largest image accepted, in pixels.")

    def model_post_init(self, _context: object) -> None:
        """Fill the defaults that follow from other settings."""
        home = self.home.expanduser().absolute()
        object.__setattr__(self, "home", home)
        if not self.store:
            object.__setattr__(self, "store", (home / "store").as_uri())
        if not self.tracking_uri:
            object.__setattr__(self, "tracking_uri", f"sqlite:///{home}/mlflow.db")
        if not self.service_url:
            object.__setattr__(self, "service_url", f"http://{self.host}:{self.service_port}")
        if not self.prometheus_url:
            object.__setattr__(self, "prometheus_url", f"http://{self.host}:{self.prometheus_port}")
        if not self.replicas_url:
            object.__setattr__(self, "replicas_url", self.service_url)

    @property
    def cache(self) -> Path:
        """Folder for anything that can be made again."""
        return self.home / "cache"

    @property
    def artifact_root(self) -> str:
        """Where MLflow keeps artefacts when no tracking server decides it."""
        return (self.home / "mlartifacts").as_uri()


@cache
def settings() -> Settings:
    """The settings of this process. Tests that change the environment call `settings.cache_clear()`."""
    try:
        return Settings()
    except ValidationError as exc:
        problem = exc.errors()[0]
        name = ".".join(str(part) for part in problem["loc"]).upper()
        name = name if name.startswith(("MLFLOW", "CIFAKE")) else f"CIFAKE_{name}"
        raise ConfigurationError(f"{name}: {problem['msg']}") from exc
