"""The small generators that are trained here: trained in a step or two, gone on with, and drawn with."""

import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cifake_core.generation import collage, plan
from cifake_core.settings import settings
from tests.generation.conftest import contents, last_json

TRAINED = ("dcgan", "dcgan-8", "sngan-4", "lsgan-8", "pixel-diffusion")


@pytest.fixture(scope="module")
def few_images(image_source, tmp_path_factory):
    """A CIFAKE_DATA of the first rows of real CIFAKE."""
    if not image_source:
        pytest.skip("training needs CIFAR-10's classes, and there are no real images here")
    folder = tmp_path_factory.mktemp("few")
    for side in ("train", "test"):
        pq.write_table(pq.read_table(f"{image_source}/{side}.parquet").slice(0, 500), folder / f"{side}.parquet")
    return str(folder)


@pytest.mark.parametrize("name", TRAINED)
def test_a_generator_is_trained_gone_on_with_and_drawn_with(torch_run, few_images, home, name):
    def call(*arguments):
        return torch_run(*arguments, "--generator", name, "--json", CIFAKE_DATA=few_images)

    last_json(call("train", "--steps", 1, "--threads", 1))
    again = call("train", "--steps", 2, "--threads", 1)
    assert last_json(again)["steps"] == 2
    assert "going on from step 1" in again.stderr
    drawn = last_json(call("--train-rows", 10, "--test-rows", 0))
    folder = home / "store" / "generation"
    rows = [row for file in folder.rglob("train-*.parquet") for row in pq.read_table(file).to_pylist()]
    assert len(rows) == drawn["rows"] == 10
    assert {row["generator"] for row in rows} == {name}
    assert {row["model_revision"] for row in rows} == {drawn["model_revision"]}
    assert len({row["image"]["bytes"] for row in rows}) > 5  # after two steps, nearly grey
    assert len({row["class"] for row in rows}) == 10


@pytest.mark.parametrize("name", ["dcgan", "pixel-diffusion"])
def test_a_training_tells_the_steps_it_has_done_and_keeps_to_its_seed(torch_run, few_images, home, name):
    def train(*arguments):
        order = ("train", "--generator", name, "--threads", 1, "--json", *arguments)
        return torch_run(*order, CIFAKE_DATA=few_images)

    folder = home / "generator" / name
    last_json(train("--steps", 2))
    before = contents(folder)
    assert last_json(train("--steps", 1))["steps"] == 2
    refused = train("--steps", 3, "--seed", 1)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.splitlines()[-1].endswith("trained with --seed 0; go on with that, or give another --folder")
    assert contents(folder) == before


@pytest.mark.parametrize("name", ["dcgan", "pixel-diffusion"])
def test_a_training_that_could_not_write_its_weights_makes_them_when_run_again(torch_run, few_images, home, name):
    order = ("train", "--generator", name, "--threads", 1, "--steps", 1, "--json")
    in_the_way = home / "generator" / name / "weights.partial"
    in_the_way.mkdir(parents=True)
    assert torch_run(*order, CIFAKE_DATA=few_images).returncode
    in_the_way.rmdir()
    assert last_json(torch_run(*order, CIFAKE_DATA=few_images))["steps"] == 1
    assert (in_the_way.parent / "weights.pt").exists()


@pytest.mark.parametrize("name", ["collage", *TRAINED])
def test_other_real_images_make_another_plan_of_what_is_drawn_from_them(
    few_images, image_source, home, monkeypatch, name
):
    weights = home / "generator" / name / "weights.pt"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"weights")

    def planned(data):
        monkeypatch.setenv("CIFAKE_DATA", data)
        settings.cache_clear()
        return plan.make(name, 10, 0).name

    assert planned(few_images) == planned(few_images)
    assert (planned(few_images) == planned(image_source)) == (name == "dcgan")


def test_without_weights_drawing_says_how_to_make_them(torch_run):
    done = torch_run("--generator", "sngan-4", "--train-rows", 1, "--test-rows", 0)
    assert done.returncode == 2
    assert "make them with `cifake generate train --generator sngan-4`" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_generator_of_others_is_not_trained_here(torch_run):
    done = torch_run("train", "--generator", "sd-turbo")
    assert done.returncode == 2
    assert "'sd-turbo' is not trained here" in done.stderr


def test_a_collage_keeps_the_shapes_and_changes_the_detail(rng):
    smooth = np.add.outer(np.linspace(40, 200, 32), np.linspace(0, 40, 32))[..., None].repeat(3, -1)
    image, other = (np.clip(smooth + rng.normal(0, 12, (32, 32, 3)), 0, 255).astype(np.uint8) for _ in "ab")
    made = [collage.draw(image, other, np.random.default_rng(seed)) for seed in range(20)]
    for each in made:
        assert each.shape == (32, 32, 3)
        assert each.dtype == np.uint8
        assert (each != image).mean() > 0.5
    again = [collage.draw(image, other, np.random.default_rng(seed)) for seed in range(20)]
    np.testing.assert_array_equal(made, again)


def test_collages_are_drawn_from_real_images(run, few_images):
    drawn = last_json(
        run("--generator", "collage", "--train-rows", 10, "--test-rows", 0, "--json", CIFAKE_DATA=few_images)
    )
    assert drawn["rows"] == 10
    assert drawn["model_revision"].startswith("1-")


def test_a_damaged_real_image_is_one_line_from_a_worker_too(run, few_images, tmp_path):
    folder = tmp_path / "damaged"
    shutil.copytree(few_images, folder)
    rows = pq.read_table(folder / "train.parquet")
    images = rows["image"].to_pylist()
    for image in images:
        image["bytes"] = image["bytes"][:100]
    table = rows.set_column(0, rows.schema.field("image"), pa.array(images, rows.schema.field("image").type))
    pq.write_table(table, folder / "train.parquet")
    order = ("--generator", "collage", "--train-rows", 20, "--test-rows", 0, "--workers", 2)
    done = run(*order, CIFAKE_DATA=str(folder))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].endswith("remove it, or leave such images out with --skip-rejected")
    assert "Traceback" not in done.stderr
