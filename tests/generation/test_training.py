"""`cifake generate train | export | card`, from real images to a generator that draws, in a few steps each."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from cifake_core.generation import embedded, fidelity, generators
from cifake_core.generation.generators import Request
from tests.generation.conftest import contents, last_json

ROWS = 500


@pytest.fixture(scope="module")
def few_images(image_source, tmp_path_factory):
    """The first rows of real CIFAKE, enough to see that training runs."""
    if not image_source:
        pytest.skip("training needs CIFAR-10's classes, and there are no real images here")
    folder = tmp_path_factory.mktemp("few")
    for side in ("train", "test"):
        pq.write_table(pq.read_table(f"{image_source}/{side}.parquet").slice(0, ROWS), folder / f"{side}.parquet")
    return folder


@pytest.fixture
def on_few(torch_run, few_images):
    def call(*arguments):
        threads = () if "export" in arguments else ("--threads", 1)
        return torch_run(*arguments, *threads, "--json", CIFAKE_DATA=str(few_images))

    return call


def test_a_trained_generator_is_gone_on_with_exported_drawn_with_and_judged(on_few, tmp_path):
    folder, weights, card = tmp_path / "work", tmp_path / "weights", tmp_path / "card"
    train = ("train", "--folder", folder, "--autoencoder-steps", 2)
    last_json(on_few(*train, "--steps", 2))
    again = on_few(*train, "--steps", 3)
    last_json(again)
    assert "going on from step 2" in again.stderr

    exported = last_json(on_few("export", "--folder", folder, "--out", weights, "--images", 20))
    assert exported["denoiser_steps"] == 3
    assert exported["bytes"] <= 15_000_000
    backend = embedded.Embedded(generators.named("embedded"), threads=1, folder=weights)
    assert embedded.weights(weights).version == exported["model_revision"]
    assert backend.draw([Request("ship", None, 0)])[0].shape == (32, 32, 3)

    judged = last_json(on_few("card", "--folder", folder, "--images", 100, "--epochs", 1, "--out", card))
    assert all(judged[name] > 0 for name in ("frechet", "frechet_real", "frechet_noise"))
    assert 0 <= judged["agreement"] <= 1
    assert judged["nearest_smallest"] <= judged["nearest_training"]
    assert json.loads((card / "card.json").read_text()) == judged
    assert {path.name for path in card.iterdir()} == {"card.json", "card.md", "classes.png", "nearest.png"}


def test_latents_follow_the_autoencoder_until_a_denoiser_has_learnt_them(on_few, torch_run, image_source, tmp_path):
    def train(autoencoder_steps, steps):
        return on_few("train", "--folder", tmp_path, "--autoencoder-steps", autoencoder_steps, "--steps", steps)

    last_json(train(1, 0))
    first = (tmp_path / "latents.npz").read_bytes()
    last_json(train(1, 0))
    assert (tmp_path / "latents.npz").read_bytes() == first
    last_json(train(2, 1))
    assert (tmp_path / "latents.npz").read_bytes() != first

    before = contents(tmp_path)
    refused = train(3, 2)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "the denoiser was trained on latents of 2 autoencoder steps" in refused.stderr.splitlines()[-1]
    order = ("train", "--folder", tmp_path, "--autoencoder-steps", 2, "--steps", 2, "--threads", 1)
    refused = torch_run(*order, CIFAKE_DATA=image_source)
    assert "the denoiser was trained on latents of other images" in refused.stderr.splitlines()[-1]
    refused = on_few(*order, "--seed", 1)
    assert refused.stderr.splitlines()[-1].endswith("trained with --seed 0; go on with that, or give another --folder")
    assert contents(tmp_path) == before
    told = last_json(train(1, 0))
    assert (told["autoencoder_steps"], told["steps"]) == (2, 1)


def test_export_before_training_says_what_to_run(on_few, tmp_path):
    done = on_few("export", "--folder", tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith("no autoencoder.pt; run `cifake generate train` first\n")


def test_a_card_of_more_images_than_there_are_real_ones_is_refused_before_training(on_few, tmp_path):
    done = on_few("card", "--images", 5000, "--out", tmp_path / "card")
    assert done.returncode == 2
    assert "--images 5000: at least 100, and no more than there are real ones" in done.stderr
    assert not (tmp_path / "card").exists()


def test_frechet_distance_is_the_closed_form_of_two_gaussians(rng):
    first = rng.standard_normal((200_000, 3)) * [1, 2, 3]
    second = rng.standard_normal((200_000, 3)) * [2, 2, 1] + [0, 3, 0]
    assert fidelity.frechet_distance(first, second) == pytest.approx(9 + 1 + 0 + 4, rel=0.02)
    assert fidelity.frechet_distance(first, first) == pytest.approx(0, abs=1e-9)


def test_sharpening_gives_blurred_images_the_power_of_sharp_ones_and_no_other_brightness(rng):
    sharp = rng.integers(0, 256, (200, 32, 32, 3), dtype=np.uint8)
    blurred = ((sharp + np.roll(sharp, 1, 1).astype(float) + np.roll(sharp, 1, 2)) / 3).astype(np.uint8)
    kernel = fidelity.sharpening(blurred, sharp)
    assert kernel.sum() == pytest.approx(1)
    assert kernel[1, 1] > 1.2
    np.testing.assert_allclose(fidelity.sharpening(sharp, sharp), [[0, 0, 0], [0, 1, 0], [0, 0, 0]], atol=1e-3)


def test_nearest_finds_copies_mirrored_ones_too(rng):
    others = rng.integers(0, 256, (50, 32, 32, 3), dtype=np.uint8)
    images = np.stack([others[7], others[31][:, ::-1], 255 - others[7]])
    order, distances = fidelity.nearest(images, others, 2)
    assert order[:2, 0].tolist() == [7, 31]
    np.testing.assert_allclose(distances[:2, 0], 0, atol=0.1)
    assert distances[2, 0] > 50
    assert (distances[:, 0] <= distances[:, 1]).all()
