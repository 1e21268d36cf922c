"""FastAPI and ONNX Runtime, written plainly."""

from __future__ import annotations

import io
import os

import numpy as np
import onnxruntime
from fastapi import FastAPI, UploadFile
from PIL import Image

app = FastAPI()
session = onnxruntime.InferenceSession(os.environ["RIVAL_MODEL"])


@app.get("/readyz")
def ready() -> str:
    """Answers when the model is loaded."""
    return "ok"


@app.post("/classify")
async def classify(image: UploadFile) -> dict[str, float | str]:
    """Classify one image."""
    picture = Image.open(io.BytesIO(await image.read())).convert("RGB").resize((32, 32))
    probability = float(session.run(["probability_real"], {"images": np.asarray(picture)[None]})[0][0])
    return {"label": "REAL" if probability >= 0.5 else "FAKE", "probability_real": probability}
