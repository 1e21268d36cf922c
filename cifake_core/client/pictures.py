"""Overlays of many images, by the local model or by a service, written as PNG."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cifake_core.client import inputs
from cifake_core.errors import ConfigurationError, ImageRejectedError
from cifake_core.settings import LABELS
from cifake_core.storage import Store
from cifake_core.verb import progress

if TYPE_CHECKING:
    from cifake_core.client.answers import ExplainOptions


def explain(
    names: Sequence[str], out: Path, service: str | None, champion: str, options: dict[str, Any]
) -> dict[str, Any]:
    """Write one PNG per image.

    Args:
        out: the file to write; a folder when there are several images or it is one already.
        options: as `answers.ExplainOptions`.

    Returns:
        `written`: image → PNG; `failed`: image → why.

    Raises:
        DataNotFoundError, ConfigurationError, RegistryError, ModelError, ServiceError, StoreError.
    """
    from pydantic import ValidationError

    from cifake_core.client.answers import ExplainOptions

    paths = inputs.expand(names)
    several = len(paths) > 1 or out.is_dir()
    try:
        chosen = ExplainOptions(**options)
    except ValidationError as exc:
        problem = exc.errors()[0]
        raise ConfigurationError(f"--{problem['loc'][0]}: {problem['msg']}") from exc
    draw = _by_service(service, options) if service else _here(champion, chosen)
    written: dict[str, str] = {}
    failed: dict[str, str] = {}
    for path in progress(paths, "explaining", unit="image"):
        target = out / _free_name(path, out, written) if several else out
        try:
            png = draw(inputs.read(path))
        except ImageRejectedError as exc:
            failed[path] = str(exc)
            continue
        Store(target.absolute().parent.as_uri()).write(target.name, png)
        written[path] = str(target)
    return {"written": written, "failed": failed}


def _free_name(path: str, out: Path, written: dict[str, str]) -> str:
    stem = Path(path).stem or "image"
    names = (f"{stem}.png", *(f"{stem}-{k}.png" for k in range(2, len(written) + 3)))
    return next(name for name in names if str(out / name) not in written.values())


def _by_service(url: str, options: dict[str, Any]) -> Callable[[bytes], bytes]:
    from cifake_core.client.remote import DetectorClient

    client = DetectorClient(url)
    return lambda data: client.explain(data, **options)


def _here(champion: str, chosen: ExplainOptions) -> Callable[[bytes], bytes]:
    import numpy as np

    from cifake_core.bundle import Detector
    from cifake_core.explain import explainer, overlay
    from cifake_core.images import codec
    from cifake_core.registry.artifacts import fetched

    detector = Detector(fetched(champion)[1])
    info = detector.info
    try:
        blocks = explainer.choose_blocks([block.name for block in info.blocks], chosen.block)
    except ValueError as exc:
        raise ConfigurationError(f"--block: {exc}") from exc
    try:
        explainer.check(detector, chosen.method)
    except ValueError as exc:
        raise ConfigurationError(f"--method: {exc}") from exc

    def draw(data: bytes) -> bytes:
        pixels = codec.resize(codec.normalise(data).pixels, info.image_size)
        probability = float(detector.score(pixels[None])[1][0])
        target = chosen.target if chosen.target != "predicted" else explainer.predicted(probability, info.threshold)
        heatmap = explainer.heatmaps(
            detector,
            pixels[None],
            method=chosen.method,
            blocks=blocks,
            target=np.array([LABELS.index(target)]),
            guided=chosen.guided,
        )[0]
        caption = explainer.caption(detector.label(probability), probability, chosen.method, blocks, target)
        return overlay.strip(pixels, heatmap, caption, size=chosen.size, colormap=chosen.colormap, alpha=chosen.alpha)

    return draw
