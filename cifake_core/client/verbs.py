"""classify, explain, serve, status, rollout: the verbs of a detector's users."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cifake_core.errors import CheckFailedError, ConfigurationError
from cifake_core.settings import settings
from cifake_core.verb import verb

if TYPE_CHECKING:
    from cifake_core.client.verdicts import Verdicts

service_option = click.option(
    "--service", metavar="URL", help="Ask this service; without it the registry's model runs in this process."
)
model_option = click.option(
    "--model",
    default="champion",
    show_default=True,
    metavar="ALIAS|N|shipped",
    help="Which version to run in this process; while there is no champion, the one that ships.",
)


def _formatted(result: Verdicts) -> str:
    from cifake_core.client import verdicts

    form = click.get_current_context().params["format"]
    if form == "json":
        return result.model_dump_json(indent=2)
    return verdicts.as_csv(result) if form == "csv" else verdicts.as_table(result)


@verb("classify", render=_formatted)
@click.argument("images", nargs=-1, required=True, metavar="FILE|FOLDER|URL…")
@click.option("--format", type=click.Choice(["table", "csv", "json"]), default="table", show_default=True)
@service_option
@model_option
def classify(images: tuple[str, ...], format: str, service: str | None, model: str) -> Verdicts:
    """Tell whether images are real or AI-generated.

    Folders are searched recursively for .jpg, .png and .webp. A file that cannot be classified gets its reason in
    its row, the others go on, and the exit code is 1.

    \b
    cifake classify photo.jpg
    cifake classify photos/ --format csv > verdicts.csv
    cifake classify photos/ --service http://127.0.0.1:3000
    """
    from cifake_core.client import verdicts

    result = verdicts.classify(images, service, model)
    if result.failed:
        of = f"{result.failed} of {len(result.images)} images could not be classified"
        raise CheckFailedError(of, result)
    return result


def _written(result: dict[str, Any]) -> str:
    return "\n".join(f"{image} → {png}" for image, png in result["written"].items())


@verb("explain", render=_written)
@click.argument("images", nargs=-1, required=True, metavar="FILE…")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="The PNG to write; with several images, the folder to write into.",
)
@click.option("--method", default="gradcam", show_default=True, help="Explanation method; see docs/explanations.md.")
@click.option("--block", default="", help="Convolution block, several joined by commas, or `all` [default: the last].")
@click.option("--target", type=click.Choice(["predicted", "REAL", "FAKE"]), default="predicted", show_default=True)
@click.option("--guided", is_flag=True, help="Let the heatmap follow the image's edges.")
@click.option("--size", type=click.IntRange(32, 1024), default=256, show_default=True, help="Pixels of a panel's side.")
@click.option("--colormap", default="inferno", show_default=True)
@click.option("--alpha", type=click.FloatRange(0, 1), default=0.5, show_default=True, help="Strength of the overlay.")
@service_option
@model_option
def explain(images: tuple[str, ...], out: Path, service: str | None, model: str, **options: Any) -> dict[str, Any]:
    """Show what in an image speaks for its verdict: a PNG of original | heatmap | overlay.

    \b
    cifake explain photo.jpg --out overlay.png
    cifake explain photos/ --out overlays/ --method layercam --block block2
    """
    from cifake_core.client import pictures

    result = pictures.explain(images, out, service, model, options)
    if result["failed"]:
        message = f"{len(result['failed'])} of {len(result['written']) + len(result['failed'])} images failed: "
        raise CheckFailedError(message + "; ".join(f"{k}: {v}" for k, v in result["failed"].items()), result)
    return result


@verb("serve")
@click.option("--host", default=None, help="Address to bind [default: CIFAKE_HOST, 127.0.0.1].")
@click.option("--port", type=click.IntRange(1, 65535), default=None, help="Port [default: CIFAKE_SERVICE_PORT, 3000].")
def serve(host: str | None, port: int | None) -> None:
    """Serve the champion over HTTP until interrupted.

    Follows the registry alias `champion`: after a promotion the new version answers within seconds.
    """
    host, port = host or settings().host, port or settings().service_port
    address = _bindable(host, port)
    # BentoML empties the metrics folder of its home at start: each port needs its own.
    os.environ.setdefault("BENTOML_HOME", str(settings().home / "bentoml" / str(port)))
    os.environ.setdefault("BENTOML_DO_NOT_TRACK", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # glibc would keep what large images needed; with fixed thresholds it goes back to the system at once.
    os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", "1048576")
    os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", "1048576")
    os.environ["CIFAKE_HOST"] = host
    sys.stdout.flush()
    arguments = ["-m", "bentoml", "serve", "services.detector.service:Detector", "--host", address, "--port", str(port)]
    os.execv(sys.executable, [sys.executable, *arguments])


def _bindable(host: str, port: int) -> str:
    """The host's IP address, after a trial bind."""
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(where)
    except OSError as exc:
        raise ConfigurationError(f"cannot listen on {host}:{port}: {exc.strerror}; choose another --port") from exc
    return str(where[0])


def _rolled_out(shown: dict[str, Any]) -> str:
    if shown["worst"] is None or shown["seconds"] is None:
        return f"version {shown['version']} is not rolled out"
    return (
        f"version {shown['version']} is served by {shown['replicas']} of {shown['replicas']} replicas after "
        f"{shown['seconds']} s; {shown['golden']} golden images differ by at most {shown['worst']:.1g}"
    )


@verb("rollout", render=_rolled_out)
@click.option("--version", "ref", default="champion", show_default=True, help="A version's number, or an alias.")
@click.option("--timeout", type=click.FloatRange(min=0), default=120, show_default=True, help="Seconds to wait.")
@click.option("--roll-back", is_flag=True, help="When it fails, make the previous champion champion again.")
def rollout(ref: str, timeout: float, roll_back: bool) -> dict[str, Any]:
    """Wait until every replica of the service serves the champion, and compare its answers with the model's own.

    \b
    cifake rollout
    cifake rollout --version 4 --roll-back

    Replicas are the addresses that CIFAKE_REPLICAS_URL resolves to; the answers come from CIFAKE_SERVICE_URL.
    """
    from cifake_core.client.rollout import rollout

    return rollout(ref, timeout, roll_back)


def _overview(result: dict[str, Any]) -> str:
    from cifake_core.client import overview

    return overview.render(result)


@verb("status", render=_overview)
def status() -> dict[str, Any]:
    """Show dataset versions, latest runs, model versions and aliases, and the service, at a glance.

    A part that is down is said to be down; the others are still shown.
    """
    from cifake_core.client import overview

    return overview.overview()
