"""Images a second in training: pixels held as one uint8 array, beside folders of JPEGs decoded every epoch.

python -m benchmarks.train_feed

The same network by each way, each in a process of its own, in turns; the second epoch counts, the first warms up.
The paper's way decodes and resizes to 224×224 from folders; the usual Keras recipes do so at 32×32.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import common

OURS, OURS_224 = "one array", "one array, resized to 224 in the network"
FREE = "one array, operators not deterministic"
DIRECTORY, GENERATOR = "image_dataset_from_directory", "ImageDataGenerator"
PAPER = "image_dataset_from_directory at 224 (the paper)"
WAYS = {OURS: 32, FREE: 32, DIRECTORY: 32, GENERATOR: 32, OURS_224: 224, PAPER: 224}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--topology", default="seed")
    parser.add_argument("--images", type=int, default=8000, help="for ways at 32×32")
    parser.add_argument("--images-224", type=int, default=320)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        print(json.dumps(_measure(options)))
        return
    with tempfile.TemporaryDirectory() as folder:
        for size, count in ((32, options.images), (224, options.images_224)):
            _write_folders(Path(folder) / str(size), count)
        measured: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
        for _ in range(options.rounds):
            for way in WAYS:
                command = [sys.executable, "-m", "benchmarks.train_feed", *sys.argv[1:], "--way", way]
                command += ["--folder", str(Path(folder) / str(WAYS[way]))]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=common.CHECKOUT)
                measured[way].append(json.loads(done.stdout.splitlines()[-1]))
    speed = {way: np.array([each["images a second"] for each in rounds]) for way, rounds in measured.items()}
    plain = all(getattr(options, name) == parser.get_default(name) for name in ("topology", "batch_size"))
    common.write_result(
        "train_feed" if plain else f"train_feed_{options.topology}_{options.batch_size}",
        {
            "what": "images a second in the second epoch; medians over rounds",
            "topology": options.topology,
            "batch_size": options.batch_size,
            "images": {"32": options.images, "224": options.images_224},
            "rounds": options.rounds,
            "ways": {
                way: {name: round(statistics.median(each[name] for each in rounds), 1) for name in rounds[0]}
                for way, rounds in measured.items()
            },
            "one array takes times as many images a second as": {
                way: round(float(np.median(speed[OURS] / speed[way])), 2) for way in WAYS if way != OURS
            },
            "machine": common.machine("tensorflow-cpu", "keras"),
        },
    )


def _write_folders(folder: Path, count: int) -> None:
    files, pixels = common.images(count)
    for number, data in enumerate(files):
        file = folder / "train" / ("FAKE", "REAL")[number % 2] / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    np.save(folder / "pixels.npy", pixels)


def _measure(options: argparse.Namespace) -> dict[str, float]:
    """One way, in this process: two epochs, of which the second counts."""
    pixels = np.load(options.folder / "pixels.npy", mmap_mode="r")
    if options.way in (OURS, FREE, OURS_224):
        from cifake_core.training.epochs import Arrays
        from cifake_core.training.fit import fit
        from cifake_core.training.options import Options

        if options.way == FREE:
            import tensorflow as tf

            tf.config.experimental.enable_op_determinism = lambda: None
        asked = Options(
            topology=options.topology, epochs=2, batch_size=options.batch_size, image_size=WAYS[options.way]
        )
        seconds = fit(asked, Arrays(pixels, np.arange(len(pixels)) % 2)).history[1]["seconds"]
    else:
        seconds = _fit_folders(options)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"images a second": len(pixels) / seconds, "peak memory, MB": memory}


def _fit_folders(options: argparse.Namespace) -> float:
    import keras  # first, so that TensorFlow starts as it does in a script: our package chooses oneDNN

    from cifake_core.training import topologies

    size = WAYS[options.way]
    keras.utils.set_random_seed(0)
    model = topologies.build(options.topology, size)
    if size != 32:  # the loader resizes, not the network
        model = keras.Model(model.get_layer("resize").output, model.output)
    metrics = [keras.metrics.BinaryAccuracy(), keras.metrics.Precision(), keras.metrics.Recall()]
    model.compile("adam", "binary_crossentropy", metrics=metrics, jit_compile=False)
    asked: dict[str, Any] = {"batch_size": options.batch_size, "class_mode": "binary", "seed": 0}
    if options.way == GENERATOR:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            generator = keras.src.legacy.preprocessing.image.ImageDataGenerator()
            data = generator.flow_from_directory(options.folder / "train", target_size=(size, size), **asked)
    else:
        asked["label_mode"] = asked.pop("class_mode")
        data = keras.utils.image_dataset_from_directory(
            options.folder / "train", image_size=(size, size), verbose=False, **asked
        )
    model.fit(data, verbose=0)
    start = time.perf_counter()
    model.fit(data, verbose=0)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
