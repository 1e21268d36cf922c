"""A generator's card: what it draws, how well, and whether it copies. `card.json`, `card.md` and two PNG files."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict

from cifake_core.errors import ConfigurationError
from cifake_core.generation import classifier, fidelity, generators, plan, real
from cifake_core.generation.generators import Request
from cifake_core.images import codec
from cifake_core.settings import CLASSES
from cifake_core.verb import progress

log = logging.getLogger(__name__)

PER_ROW = 12
SHOWN = 20  # generated images whose nearest training images are shown
ZOOM = 2


class Card(BaseModel, frozen=True):
    """What was measured. Rates are 0 … 1; Fréchet distances are in the judge's features; distances in grey levels.

    Attributes:
        judge_accuracy: of the classifier on real test images; it was trained on real training images only.
        agreement: share of generated images that the classifier puts into the class they were asked for.
        frechet: generated against real test images; `frechet_real` real training images (the best there is) and
            `frechet_noise` uniform noise (the worst), each in the same number against the same test images.
        nearest_training: median distance of a generated image to its nearest training image;
            `nearest_training_of_test` the same of real test images: copies would be far nearer than those are.
    """

    model_config = ConfigDict(extra="forbid")

    generator: str
    model_revision: str
    seed: int
    images: int
    judge_accuracy: float
    agreement: float
    agreement_by_class: dict[str, float]
    frechet: float
    frechet_real: float
    frechet_noise: float
    nearest_training: float
    nearest_training_of_test: float
    nearest_smallest: float


def make(
    generator: str, out: Path, work: Path, images: int = 2000, seed: int = 0, epochs: int = 8, threads: int = 0
) -> Card:
    """Draw images, judge them, and write the card to `out`.

    Args:
        work: where the judge, trained once on the resolved source's real images, is kept.
        images: how many to draw, balanced over the classes.

    Raises:
        ConfigurationError: unknown generator, or too few real images to compare with.
        CifakeError: the generator, or a batch of it, does not fit the device.
    """
    entry = generators.named(generator)
    real_train, train_classes = real.read("train")
    real_test, test_classes = real.read("test")
    if images < 10 * len(CLASSES) or min(len(real_train), len(real_test)) < images:
        raise ConfigurationError(
            f"--images {images}: at least {10 * len(CLASSES)}, and no more than there are real ones in train and test "
            f"({len(real_train):,} and {len(real_test):,})"
        )
    judge = classifier.train(real_train, train_classes, work, epochs)
    drawn, asked = _draw(entry, images, seed, threads)
    rng = np.random.default_rng(seed)
    some_train = real_train[rng.choice(len(real_train), images, replace=False)]
    some_test = real_test[rng.choice(len(real_test), images, replace=False)]
    noise = _through_codec(rng.integers(0, 256, drawn.shape, dtype=np.uint8))
    features = {
        name: judge(each)[1]
        for name, each in (("drawn", drawn), ("train", some_train), ("test", some_test), ("noise", noise))
    }
    right = judge.agreement(drawn, asked)
    shown = rng.choice(images, min(SHOWN, images), replace=False)
    neighbours, _ = fidelity.nearest(drawn[shown], real_train, 4)
    sample = rng.choice(images, min(200, images), replace=False)
    distances = fidelity.nearest(drawn[sample], real_train)[1]
    card = Card(
        generator=generator,
        model_revision=generators.revision(entry),
        seed=seed,
        images=images,
        judge_accuracy=_rounded(judge.agreement(real_test, test_classes).mean()),
        agreement=_rounded(right.mean()),
        agreement_by_class={name: _rounded(right[asked == index].mean()) for index, name in enumerate(CLASSES)},
        frechet=_rounded(fidelity.frechet_distance(features["drawn"], features["test"])),
        frechet_real=_rounded(fidelity.frechet_distance(features["train"], features["test"])),
        frechet_noise=_rounded(fidelity.frechet_distance(features["noise"], features["test"])),
        nearest_training=_rounded(np.median(distances)),
        nearest_training_of_test=_rounded(np.median(fidelity.nearest(some_test[: len(sample)], real_train)[1])),
        nearest_smallest=_rounded(distances.min()),
    )
    out.mkdir(parents=True, exist_ok=True)
    columns = min(PER_ROW, np.bincount(asked, minlength=len(CLASSES)).min())
    by_class = np.concatenate([drawn[asked == index][:columns] for index in range(len(CLASSES))])
    _grid(by_class, columns, out / "classes.png")
    pairs = [np.concatenate([drawn[i : i + 1], real_train[row]]) for i, row in zip(shown, neighbours, strict=True)]
    _grid(np.concatenate(pairs), 5, out / "nearest.png")
    (out / "card.json").write_text(card.model_dump_json(indent=2))
    (out / "card.md").write_text(_markdown(card))
    return card


def _draw(entry: generators.Generator, count: int, seed: int, threads: int) -> tuple[np.ndarray, np.ndarray]:
    made = plan.make(entry.name, count, 0, seed)
    requests = [request for shard in made.shards for request in made.requests(shard)]
    images: list[np.ndarray] = []
    kept: list[Request] = []
    with generators.must_fit(entry.name):
        backend = generators.open_backend(entry, threads)
        for start in progress(range(0, count, backend.batch), "drawing", unit="batch"):
            batch: Sequence[Request] = requests[start : start + backend.batch]
            for request, image in zip(batch, backend.draw(batch), strict=True):
                if image is not None:  # a flagged image is simply missing here
                    kept.append(request)
                    images.append(codec.resize(image))
    return _through_codec(np.stack(images)), np.array([CLASSES.index(request.object_class) for request in kept])


def _through_codec(images: np.ndarray) -> np.ndarray:
    return np.stack([codec.decode(codec.encode(image)).pixels for image in images])


def _grid(images: np.ndarray, columns: int, file: Path) -> None:
    rows = len(images) // columns
    size = images.shape[1]
    cells = images[: rows * columns].reshape(rows, columns, size, size, 3)
    sheet = Image.fromarray(cells.transpose(0, 2, 1, 3, 4).reshape(rows * size, columns * size, 3))
    sheet.resize((sheet.width * ZOOM, sheet.height * ZOOM), Image.Resampling.NEAREST).save(file)


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def _markdown(card: Card) -> str:
    classes = "\n".join(f"| {name} | {share:.1%} |" for name, share in card.agreement_by_class.items())
    return f"""# {card.generator}

Weights {card.model_revision}, {card.images:,} images from seed {card.seed}, all through the codec.

![a row for each class](classes.png)

| | |
|---|---|
| a classifier trained on real images only, on real test images | {card.judge_accuracy:.1%} |
| the same classifier agrees with the class asked for | {card.agreement:.1%} |
| Fréchet distance to real test images, in its features | {card.frechet:.3g} |
| … of as many real training images | {card.frechet_real:.3g} |
| … of as much noise | {card.frechet_noise:.3g} |
| median distance to the nearest training image (grey levels, RMS) | {card.nearest_training:.1f} |
| … of real test images | {card.nearest_training_of_test:.1f} |
| smallest of a generated image | {card.nearest_smallest:.1f} |

| class | agreement |
|---|---|
{classes}

Generated images (first column) and their nearest training images:

![first column generated, then its four nearest training images](nearest.png)
"""
