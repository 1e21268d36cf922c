"""One image at a time: `/classify` and the model call alone, beside `keras.Model.predict`, in one run.

python -m benchmarks.serve_one

Real images one after another over one connection; the ways take turns in rounds, so that a busy machine slows all
alike. The ratios are medians over the rounds of the rounds' p50.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks import common


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--topology", default="seed")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--images", type=int, default=50, help="per round and way")
    options = parser.parse_args()
    files, pixels = common.images(options.images)
    model = common.keras_model(options.topology)
    with tempfile.TemporaryDirectory() as folder:
        bundle = common.make_home(Path(folder), model, options.topology, pixels)
        with common.detector_service(Path(folder)) as (_, port):
            result = _measure(options, files, pixels, model, bundle, f"http://127.0.0.1:{port}/classify")
    common.write_result("serve_one", result)


def _measure(
    options: argparse.Namespace, files: list[bytes], pixels: np.ndarray, model: Any, bundle: Path, url: str
) -> dict[str, Any]:
    from cifake_core.bundle import Detector

    detector = Detector(bundle, threads=1)
    with httpx.Client(trust_env=False) as http:

        def classify(k: int) -> float:
            answer = http.post(url, content=files[k], headers={"Content-Type": "image/jpeg"})
            answer.raise_for_status()
            return float(answer.json()["probability_real"])

        ways: dict[str, Callable[[int], float]] = {
            "classify": classify,
            "model call": lambda k: float(detector.score(pixels[k : k + 1])[1][0]),
            "keras predict": lambda k: float(model.predict(pixels[k : k + 1], verbose=0)[0, 0]),
            "keras call": lambda k: float(model(pixels[k : k + 1], training=False)[0, 0]),
        }
        scores = {name: np.array([way(k) for k in range(len(files))]) for name, way in ways.items()}
        worst = max(float(np.abs(each - scores["keras predict"]).max()) for each in scores.values())
        if worst > 1e-4:
            raise SystemExit(f"the ways disagree by {worst:.2g}")
        seconds: dict[str, list[list[float]]] = {name: [] for name in ways}
        for _ in range(options.rounds):
            for name, way in ways.items():
                seconds[name].append([_timed(way, k) for k in range(len(files))])
    middle = {name: np.median(np.array(each), axis=1) for name, each in seconds.items()}
    predict = middle["keras predict"]
    return {
        "what": "one image at a time over one connection",
        "topology": options.topology,
        "parameters": model.count_params(),
        "rounds": options.rounds,
        "ways": {name: common.percentiles(np.concatenate(each)) for name, each in seconds.items()},
        "keras predict takes times as long as": {
            name: round(float(np.median(predict / each)), 1) for name, each in middle.items() if name != "keras predict"
        },
        "largest_difference": worst,
        "machine": common.machine("tensorflow-cpu", "keras", "onnxruntime", "bentoml"),
    }


def _timed(way: Callable[[int], float], k: int) -> float:
    start = time.perf_counter()
    way(k)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
