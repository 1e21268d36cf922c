"""What each part of the recipe `house-s` is worth, in trainings short enough to compare.

python -m benchmarks.ablation --dataset VERSION

The recipe on a part of the train split for a few epochs, and the same without one of its parts, or with another
network. Accuracy and loss are of the validation split: test images choose nothing here. What a recipe gains in a short
training it need not gain in a long one; what it cannot learn in a short one costs hours.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from benchmarks import common

ADAMW = {"optimizer": "adamw", "learning_rate": 0.004}
# Name → options that differ, options of the augmentation that differ, and whether the first convolution is random.
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any], bool]] = {
    "the recipe": ({}, {}, False),
    "AdamW": (ADAMW, {}, False),
    "random first convolution": ({}, {}, True),
    "AdamW, random first convolution": (ADAMW, {}, True),
    "learning rate 0.004": ({"learning_rate": 0.004}, {}, False),
    "learning rate 0.02": ({"learning_rate": 0.02}, {}, False),
    "no weight decay": ({"weight_decay": 0}, {}, False),
    "no average": ({"average": 0}, {}, False),
    "no shift": ({}, {"shift": 0}, False),
    "no damage": ({}, {"damage": 0}, False),
    "house-xs": ({"topology": "house-xs"}, {}, False),
    "house-m": ({"topology": "house-m"}, {}, False),
    "cct": ({"topology": "cct"}, {}, False),
    "efficientnet-b0": ({"topology": "efficientnet-b0"}, {}, False),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", required=True, help="a version in CIFAKE_HOME with a validation split")
    parser.add_argument("--rows", type=int, default=40_000)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--variant", action="append", choices=VARIANTS, help="only these; the others' figures are kept")
    options = parser.parse_args()
    from cifake_core.images import dataset
    from cifake_core.storage import Store
    from cifake_core.training.epochs import Arrays

    store = Store()
    manifest = dataset.load(store, options.dataset)
    images, labels = dataset.arrays(store, manifest, "train")
    chosen = np.random.default_rng(0).permutation(len(labels))[: options.rows]
    train = Arrays(images[chosen], labels[chosen])
    validation = Arrays(*dataset.arrays(store, manifest, "validation"))
    asked = {"dataset version": options.dataset, "rows": len(chosen), "epochs": options.epochs, "seed": options.seed}
    found = common.kept("ablation", asked).get("validation", {})
    for name in options.variant or VARIANTS:
        last = _train(name, options, train, validation)
        found[name] = {each: round(last[f"val_{each}"], 4) for each in ("accuracy", "loss")}
        print(name, found[name], flush=True)
        common.write_result(
            "ablation",
            {
                "what": "the recipe house-s for a few epochs, without one of its parts or with another network",
                **asked,
                "validation": found,
                "machine": common.machine("tensorflow-cpu", "keras"),
            },
        )


def _train(name: str, asked: argparse.Namespace, train: Any, validation: Any) -> dict[str, float]:
    """The last epoch's figures."""
    import keras

    from cifake_core.training import topologies
    from cifake_core.training.fit import fit
    from cifake_core.training.options import options

    changes, augmentation, random = VARIANTS[name]
    recipe = options("house-s", epochs=asked.epochs, seed=asked.seed)
    recipe = recipe.model_copy(update=changes | {"augmentation": recipe.augmentation.model_copy(update=augmentation)})
    starts = []
    if random:
        keras.utils.set_random_seed(asked.seed)
        starts = [topologies.build(recipe.topology)]
        kernel = next(layer for layer in starts[0].layers if isinstance(layer, keras.layers.Conv2D)).kernel
        kernel.assign(keras.initializers.HeNormal()(kernel.shape))
    return fit(recipe, train, validation, starts=starts).history[-1]


if __name__ == "__main__":
    main()
