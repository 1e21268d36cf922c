"""The diffusers generators, end to end by the command, on a tiny random model in the published one's layout."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from cifake_core.images import codec, records
from tests.generation.conftest import contents, last_json

SD = "stable-diffusion-v1-4"


@pytest.fixture
def one_prompt(tmp_path) -> Path:
    file = tmp_path / "prompts.json"
    file.write_text(json.dumps({"classes": {"frog": ["a frog on a leaf"]}}))
    return file


def rows_below(folder: Path):
    files = sorted(folder.glob("store/generation/*/*.parquet"))
    return [row for file in files for row in records.from_parquet(file.read_bytes()).to_pylist()]


def test_the_papers_generator_draws_its_fifty_steps_with_full_lineage(torch_run, home, tiny_model, one_prompt):
    order = ("--generator", SD, "--train-rows", 2, "--test-rows", 0, "--prompts", one_prompt, "--json")
    done = last_json(torch_run(*order, CIFAKE_GENERATOR_WEIGHTS=str(tiny_model)))
    assert (done["rows"], done["generator"]) == (2, SD)
    rows = rows_below(home)
    assert len({row["image"]["bytes"] for row in rows}) == 2
    for row in rows:
        assert codec.is_canonical(row["image"]["bytes"])
        pixels = codec.decode(row["image"]["bytes"]).pixels
        assert pixels.shape == (32, 32, 3)
        assert np.ptp(pixels) > 0
        lineage = {key: row[key] for key in ("class", "generator", "prompt", "steps", "scheduler", "guidance")}
        assert lineage == {
            "class": "frog",
            "generator": SD,
            "prompt": "a frog on a leaf",
            "steps": 50,
            "scheduler": "PNDMScheduler",
            "guidance": 7.5,
        }
        assert (row["resize_filter"], row["encoder"]) == (codec.RESIZE_FILTER, codec.ENCODER)
        assert row["model_revision"] == done["model_revision"]


def test_flagged_images_are_drawn_again_and_shards_apart_give_the_same_bytes(torch_run, home, tiny_model, tmp_path):
    """The tiny model's checker flags about half of what it sees."""
    file = tmp_path / "prompts.json"
    file.write_text(json.dumps({"classes": {"frog": ["a frog on a leaf", "a green frog"]}}))
    order = ("--generator", "sd-turbo", "--train-rows", 8, "--test-rows", 0, "--prompts", file, "--json")
    weights = {"CIFAKE_GENERATOR_WEIGHTS": str(tiny_model)}
    done = last_json(torch_run(*order, **weights))
    rows = rows_below(home)
    redraws = [row["safety_redraws"] for row in rows]
    assert sum(redraws) == sum(shard["redraws"] for shard in done["shards"]) > 0
    assert 0 in redraws
    assert all(np.ptp(codec.decode(row["image"]["bytes"]).pixels) > 0 for row in rows)

    other = weights | {"CIFAKE_HOME": str(tmp_path / "other")}
    made = last_json(torch_run("plan", *order, **other))
    assert made["shards"] == 2
    for shard in (1, 0):
        last_json(torch_run("run", "--plan", made["plan"], "--shard", shard, "--json", **other))
    assert contents(tmp_path / "other" / "store") == contents(home / "store")


def test_a_generator_that_is_checked_is_not_run_without_its_checker(torch_run, tiny_model, tmp_path):
    folder = tmp_path / "unchecked"
    shutil.copytree(tiny_model, folder)
    index = json.loads((folder / "model_index.json").read_text())
    index["safety_checker"] = index["feature_extractor"] = [None, None]
    (folder / "model_index.json").write_text(json.dumps(index))
    done = torch_run("--generator", SD, "--train-rows", 1, "--test-rows", 0, CIFAKE_GENERATOR_WEIGHTS=str(folder))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].endswith(f"no safety checker; generator '{SD}' draws with it only")


TRUNCATED = {
    "weights cut short": lambda folder: cut(folder / "unet" / "diffusion_pytorch_model.safetensors"),
    "a folder missing": lambda folder: shutil.rmtree(folder / "vae"),
    "a configuration cut short": lambda folder: cut(folder / "text_encoder" / "config.json"),
}


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.parametrize("damage", TRUNCATED.values(), ids=TRUNCATED.keys())
def test_a_truncated_weights_folder_is_one_clear_line(torch_run, tiny_model, tmp_path, damage):
    folder = tmp_path / "truncated"
    shutil.copytree(tiny_model, folder)
    damage(folder)
    done = torch_run(
        *("--generator", "sd-turbo", "--train-rows", 1, "--test-rows", 0), CIFAKE_GENERATOR_WEIGHTS=str(folder)
    )
    assert (done.returncode, done.stdout) == (2, "")
    said = done.stderr.splitlines()[-1]
    assert said.startswith(f"cifake generate: {folder}: weights are damaged or incomplete (")
    assert "Traceback" not in done.stderr


NO_MEMORY = """
import diffusers, torch
from cifake_core.cli import main

def full(*arguments, **more):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

diffusers.AutoPipelineForText2Image.from_pretrained = full
main()
"""


def test_a_model_too_large_for_the_device_is_not_called_damaged(torch_forks, home, tiny_model, tmp_path):
    script = tmp_path / "no_memory.py"
    script.write_text(NO_MEMORY)
    where = {"CIFAKE_HOME": str(home), "CIFAKE_GENERATOR_WEIGHTS": str(tiny_model)}
    done = torch_forks(script, "generate", "--generator", "sd-turbo", "--train-rows", 1, "--test-rows", 0, **where)
    assert (done.returncode, done.stdout) == (2, "")
    said = done.stderr.splitlines()[-1]
    assert said.startswith("cifake generate: sd-turbo does not fit the memory here (CUDA out of memory.")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("generator", [SD, "sd-turbo"], ids=["pinned to a commit", "on a branch"])
def test_without_a_hub_and_without_weights_it_says_where_to_put_them(torch_run, generator):
    done = torch_run("--generator", generator, "--train-rows", 1, "--test-rows", 0)
    assert (done.returncode, done.stdout) == (2, "")
    assert "set CIFAKE_GENERATOR_WEIGHTS to a folder or s3:// URL" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_weights_come_from_an_s3_prefix_once(torch_run, run, home, tiny_model, s3):
    import s3fs

    fs = s3fs.S3FileSystem(
        key=s3.environment["AWS_ACCESS_KEY_ID"],
        secret=s3.environment["AWS_SECRET_ACCESS_KEY"],
        endpoint_url=s3.endpoint,
        skip_instance_cache=True,
    )
    fs.put(str(tiny_model), f"{s3.bucket}/models/stabilityai/sd-turbo", recursive=True)
    order = ("--generator", "sd-turbo", "--train-rows", 1, "--test-rows", 0, "--json")
    environment = {**s3.environment, "CIFAKE_GENERATOR_WEIGHTS": f"s3://{s3.bucket}/models"}
    drawn = last_json(torch_run(*order, **environment))
    [cached] = (home / "cache" / "generators").iterdir()
    assert contents(cached) == contents(tiny_model)
    begun = cached.stat().st_mtime_ns
    planned = last_json(run("plan", *order, "--seed", 1, **environment))  # fetches only what is not there
    assert planned["plan"].startswith("sd-turbo-")
    assert [each.stat().st_mtime_ns for each in cached.parent.iterdir()] == [begun]
    local = last_json(torch_run(*order, "--seed", 2, CIFAKE_GENERATOR_WEIGHTS=str(tiny_model)))
    assert drawn["model_revision"] == local["model_revision"]


def test_memory_that_runs_out_in_torch_halves_the_batch(torch_forks, home, tiny_model):
    done = torch_forks(
        *(Path(__file__).with_name("cramped.py"), "sd-turbo", 16, 24),
        **{"CIFAKE_HOME": str(home), "CIFAKE_GENERATOR_WEIGHTS": str(tiny_model)},
    )
    result = last_json(done)
    assert result["halvings"] >= 1
    assert result["batch"] < 16
    assert result["drawn"] == result["rows"]


def test_the_command_goes_on_in_the_environment_with_torch(run, torch_environment, tiny_model):
    order = ("--generator", "sd-turbo", "--train-rows", 1, "--test-rows", 0)
    done = run(*order, CIFAKE_GENERATOR_WEIGHTS=str(tiny_model), OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    assert "1 images by sd-turbo" in done.stdout


@pytest.mark.parametrize(
    ("order", "who"),
    [(("--generator", "sd-turbo", "--train-rows", 1), "generator 'sd-turbo'"), (("train",), "this")],
    ids=["generate", "train"],
)
def test_without_that_environment_it_says_how_to_make_it(run, tmp_path, tiny_model, order, who):
    elsewhere = {"CIFAKE_TORCH_ENVIRONMENT": str(tmp_path), "CIFAKE_GENERATOR_WEIGHTS": str(tiny_model)}
    done = run(*order, **elsewhere)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].endswith(
        f"{who} needs torch and diffusers: run `make setup-generate`, or pip install 'cifake[generate]'"
    )
