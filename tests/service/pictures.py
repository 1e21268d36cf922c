"""Schemathesis draws images from here: good ones, so that the model is reached, and broken ones."""

from __future__ import annotations

import base64
import io

import numpy as np
import schemathesis
from hypothesis import strategies as st
from PIL import Image


def _images() -> list[bytes]:
    made = []
    for size, form in ((32, "JPEG"), (1, "PNG"), (70, "WEBP")):
        buffer = io.BytesIO()
        pixels = np.random.default_rng(size).integers(0, 256, (size, size, 3), np.uint8)
        Image.fromarray(pixels).save(buffer, form)
        made.append(buffer.getvalue())
    return [*made, b"", b"not an image", made[0][:200]]


IMAGES = st.sampled_from(_images())
for kind in ("image/jpeg", "image/png", "image/webp", "application/octet-stream"):
    schemathesis.openapi.media_type(kind, IMAGES)
schemathesis.openapi.format("base64-image", IMAGES.map(lambda data: base64.b64encode(data).decode()))
