"""The obvious BentoML service: the Keras model, `predict`, an image parameter."""

from __future__ import annotations

import os

import bentoml
import numpy as np
from PIL.Image import Image


@bentoml.service(traffic={"timeout": 60})
class Detector:
    """Tells real photographs from generated ones."""

    def __init__(self) -> None:
        import keras

        self.model = keras.models.load_model(os.environ["RIVAL_MODEL"])

    @bentoml.api
    def classify(self, image: Image) -> dict[str, float | str]:
        """Classify one image."""
        pixels = np.asarray(image.convert("RGB").resize((32, 32)))
        probability = float(self.model.predict(pixels[None], verbose=0)[0, 0])
        return {"label": "REAL" if probability >= 0.5 else "FAKE", "probability_real": probability}
