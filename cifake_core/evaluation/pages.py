"""HTML pages that carry their own pictures: one file to open, mail or keep with a run."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def render(template: str, **values: Any) -> str:
    """A page from `cifake_core/evaluation/templates`; everything in `values` is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("cifake_core.evaluation"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["percent"] = lambda value: "–" if value is None else f"{100 * value:.2f} %"
    environment.filters["points"] = lambda value: "–" if value is None else f"{100 * value:+.2f}"
    return environment.get_template(template).render(**values)


def picture(pixels: np.ndarray) -> str:
    """Pixels (H, W, 3) uint8 as a PNG data URI."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return _uri(buffer)


def chart(figure: Figure) -> str:
    """A Matplotlib figure as a PNG data URI."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
    return _uri(buffer)


def _uri(buffer: io.BytesIO) -> str:
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
