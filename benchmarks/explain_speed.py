"""One Grad-CAM of one image, beside the usual eager Keras one (`GradientTape`, as in Keras' own example), in one run.

python -m benchmarks.explain_speed

The ways take turns, so that a busy machine slows both alike; their heatmaps must agree.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import common


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--topology", default="seed")
    parser.add_argument("--images", type=int, default=100)
    options = parser.parse_args()
    import keras

    from cifake_core.bundle import Detector
    from cifake_core.explain import explainer

    _, pixels = common.images(options.images)
    model = common.keras_model(options.topology)
    with tempfile.TemporaryDirectory() as folder:
        detector = Detector(common.make_home(Path(folder), model, options.topology, pixels), threads=1)
    block = detector.info.blocks[-1].name
    inner = keras.Model(model.inputs, [model.get_layer(block).output, model.get_layer("logit").output])
    one = np.ones(1, int)
    ways: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "ours": lambda image: explainer.heatmaps(detector, image, method="gradcam", blocks=[block], target=one)[0],
        "eager Keras": lambda image: eager_keras(inner, image),
    }
    worst = max(float(np.abs(ways["ours"](x[None]) - ways["eager Keras"](x[None])).max()) for x in pixels[:10])
    if worst > 1e-3:
        raise SystemExit(f"the heatmaps differ by {worst:.2g}")
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for image in pixels:
        for name, way in ways.items():
            start = time.perf_counter()
            way(image[None])
            seconds[name].append(time.perf_counter() - start)
    ratio = np.median(seconds["eager Keras"]) / np.median(seconds["ours"])
    result: dict[str, Any] = {
        "what": f"Grad-CAM of one image at {block}, upsampled to the image and scaled to 0…1",
        "topology": options.topology,
        "ways": {name: common.percentiles(each) for name, each in seconds.items()},
        "eager Keras takes times as long": round(float(ratio), 1),
        "largest_difference": worst,
        "machine": common.machine("tensorflow-cpu", "keras", "onnxruntime"),
    }
    common.write_result("explain_speed", result)


def eager_keras(inner: Any, image: np.ndarray) -> np.ndarray:
    """Selvaraju et al.'s map for REAL, as https://keras.io/examples/vision/grad_cam/ makes it."""
    import tensorflow as tf

    from cifake_core.explain import cams

    with tf.GradientTape() as tape:
        activations, logit = inner(image)
        score = logit[:, 0]
    gradients = tape.gradient(score, activations)
    pooled = tf.reduce_mean(gradients, axis=(0, 1, 2))
    heatmap = tf.squeeze(activations[0] @ pooled[..., tf.newaxis])
    coarse = tf.maximum(heatmap, 0).numpy()
    return cams.normalise(cams.resize(coarse[None], image.shape[1]))[0]


if __name__ == "__main__":
    main()
