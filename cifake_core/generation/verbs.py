"""`cifake generate`: make FAKE images; its subcommands plan, run, train, export, card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cifake_core.verb import verb

_SEED = click.option("--seed", type=int, default=0, show_default=True, help="Decides every image.")
_ROWS = click.IntRange(min=0)
_PROMPTS = click.option(
    "--prompts",
    "prompts_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help='JSON file {"classes": {"CLASS": ["PROMPT", …]}}. Default: the ten classes and thirty prompts of CIFAKE.',
)
_WORKERS = click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Processes.")
_BATCH = click.option("--batch", type=click.IntRange(min=1), help="Images at once. Default: the generator's own.")
_FOLDER = click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where training keeps its checkpoints. Default: generator in CIFAKE_HOME.",
)
_THREADS = click.option("--threads", type=_ROWS, default=0, help="Of the CPU. Default: one for each core.")


def _render_run(result: Any) -> str:
    shown = result if isinstance(result, dict) else result.model_dump()
    lines = [f"{shown['rows']:,} images by {shown['generator']}: {shown['rows_url']}"]
    if "images_per_second" in shown:
        lines.append(f"  {shown['images_per_second']} images/s, revision {shown['model_revision']}")
        redraws = sum(shard["redraws"] for shard in shown["shards"])
        lines += [f"  {redraws} flagged images drawn again"] if redraws else []
    return "\n".join([*lines, f"next: cifake data build --fake {shown['rows_url']}"])


def _render_plan(shown: dict[str, Any]) -> str:
    return (
        f"plan {shown['plan']}: {shown['rows']:,} images in {shown['shards']} shards\n"
        f"next: cifake generate run --plan {shown['plan']}"
    )


@verb("generate", render=_render_run)
@click.option("--generator", default="embedded", show_default=True, metavar="NAME", help="Who draws the images.")
@click.option("--train-rows", type=_ROWS, help="Images for the train side. Default: 5,000, or all published ones.")
@click.option("--test-rows", type=_ROWS, help="Images for the test side. Default: 1,000, or all published ones.")
@_SEED
@_PROMPTS
@_WORKERS
@_BATCH
def _generate(
    generator: str,
    train_rows: int | None,
    test_rows: int | None,
    seed: int,
    prompts_file: Path | None,
    workers: int,
    batch: int | None,
) -> Any:
    """Make FAKE images, and print `rows_url`: hand it to `cifake data build --fake`.

    \b
    cifake generate --train-rows 5000 --test-rows 1000
    cifake generate --generator stable-diffusion-v1-4 --train-rows 50000 --test-rows 10000
    cifake generate --generator cifake

    `embedded` is the small diffusion model that ships with cifake; `cifake` reads the published Stable Diffusion
    images from CIFAKE_DATA, `resample` is the offline sample's; an unknown name prints the list of all others.
    Interrupt it at any point and run it again: it goes on after the last batch.
    """
    from cifake_core.generation import published
    from cifake_core.storage import Store

    store = Store()
    if generator in published.NAMES:
        found = published.collect(store, generator, train_rows, test_rows, seed)
        return {**found.model_dump(), "generator": generator}
    from cifake_core.generation import plan
    from cifake_core.generation import workers as pool

    _enter_torch_environment(generator)
    made = _plan(
        generator,
        5000 if train_rows is None else train_rows,
        1000 if test_rows is None else test_rows,
        seed,
        prompts_file,
    )
    plan.save(store, made)
    return pool.run_plan(store, made, workers=workers, batch=batch)


def _enter_torch_environment(generator: str) -> None:
    from cifake_core.generation import generators, torch_environment

    if generators.named(generator).backend not in ("embedded", "collage"):
        torch_environment.enter()


def _plan(generator: str, train_rows: int, test_rows: int, seed: int, prompts_file: Path | None) -> Any:
    from cifake_core.generation import plan, prompts

    return plan.make(generator, train_rows, test_rows, seed, prompts.load(prompts_file) if prompts_file else None)


def _without_subcommand(**options: Any) -> Any:
    context = click.get_current_context()
    if context.invoked_subcommand is None:
        assert _generate.callback is not None
        _generate.callback(**options)


generate = click.Group(
    "generate",
    params=_generate.params,
    callback=_without_subcommand,
    help=_generate.help,
    invoke_without_command=True,
    subcommand_metavar="[plan|run|train|export|card]",
)


@verb("plan", render=_render_plan)
@click.option("--generator", default="embedded", show_default=True, metavar="NAME", help="Who will draw the images.")
@click.option("--count", type=click.IntRange(min=1), help="Images in all: five in six for train, one in six for test.")
@click.option("--train-rows", type=_ROWS, default=0, help="Images for the train side, instead of --count.")
@click.option("--test-rows", type=_ROWS, default=0, help="Images for the test side, instead of --count.")
@_SEED
@_PROMPTS
def plan_verb(
    generator: str, count: int | None, train_rows: int, test_rows: int, seed: int, prompts_file: Path | None
) -> Any:
    """Write down which images are to be drawn, as shards that any number of workers may share.

    \b
    cifake generate plan --generator embedded --count 60000 --seed 1

    The same order gives the same plan, and the same plan the same images.
    """
    from cifake_core.errors import ConfigurationError
    from cifake_core.generation import plan
    from cifake_core.storage import Store

    if count:
        if train_rows or test_rows:
            raise ConfigurationError("give either --count or --train-rows and --test-rows")
        test_rows = count // plan.TEST_SHARE
        train_rows = count - test_rows
    made = _plan(generator, train_rows, test_rows, seed, prompts_file)
    url = plan.save(Store(), made)
    return {"plan": made.name, "rows_url": url, "rows": made.rows, "generator": generator, "shards": len(made.shards)}


@verb("run", render=_render_run)
@click.option("--plan", "plan_name", required=True, metavar="NAME", help="A plan's name or URL.")
@click.option(
    "--shard", "shards", multiple=True, metavar="SHARD", help="A shard's number or name; repeatable. Default: all."
)
@_WORKERS
@_BATCH
def run_verb(plan_name: str, shards: tuple[str, ...], workers: int, batch: int | None) -> Any:
    """Draw a plan's shards; those that are finished are skipped, one that was interrupted is gone on with.

    \b
    cifake generate run --plan embedded-1f2e3d4c5b6a --shard 0 --shard 1
    """
    from cifake_core.generation import plan
    from cifake_core.generation import workers as pool
    from cifake_core.storage import Store

    store = Store()
    made = plan.load(store, plan_name)
    _enter_torch_environment(made.generator)
    return pool.run_plan(store, made, [made.shard(name) for name in shards] or None, workers, batch)


@verb("train")
@click.option("--generator", default="embedded", show_default=True, metavar="NAME", help="One that is trained here.")
@_FOLDER
@click.option(
    "--autoencoder-steps", type=_ROWS, default=1100, show_default=True, help="Of `embedded`: 64 images each, in all."
)
@click.option("--steps", type=_ROWS, help="Optimizer steps in all. Default: 22,000 for `embedded`, else 6,000.")
@_THREADS
@_SEED
def train_verb(
    generator: str, folder: Path | None, autoencoder_steps: int, steps: int | None, threads: int, seed: int
) -> Any:
    """Train a generator on real images; goes on where it was left. Hours, on a CPU; half an hour for the small ones.

    \b
    cifake generate train --generator embedded
    cifake generate train --generator sngan-4 --steps 3000

    `embedded` (whose weights ship), `dcgan`, `dcgan-8`, `sngan-4`, `lsgan-8` and `pixel-diffusion` are trained here.
    The last fifth of the steps of `embedded` lowers its learning rate: to prolong a training, ask for more steps.
    """
    from cifake_core.errors import ConfigurationError
    from cifake_core.generation import embedded_training as training
    from cifake_core.generation import gan, generators, pixel_diffusion, real, torch_environment, trained
    from cifake_core.generation.torch_training import noted

    backend = generators.named(generator).backend
    if backend in ("diffusers", "collage"):
        raise ConfigurationError(f"generator {generator!r} is not trained here; see `cifake generate train --help`")
    torch_environment.enter()
    training.prepare(threads)
    images, classes = real.read("train")
    said = {"generator": generator, "images": len(images)}
    if backend == "embedded":
        folder, steps = folder or _default_folder(), 22_000 if steps is None else steps
        training.train(
            images,
            classes,
            folder,
            training.Stage(steps=autoencoder_steps, learning_rate=2e-3, seed=seed),
            training.Stage(steps=steps, learning_rate=5e-4, seed=seed),
        )
        done = {name: noted(folder / f"{name}.pt", "step", 0) for name in ("autoencoder", "denoiser")}
        return {**said, "folder": str(folder), "autoencoder_steps": done["autoencoder"], "steps": done["denoiser"]}
    folder, steps = folder or trained.folder(generator), 6_000 if steps is None else steps
    if backend == "gan":
        weights = gan.train(generator, images, classes, folder, steps, seed)
    else:
        weights = pixel_diffusion.train(images, folder, steps, seed)
    return {**said, "folder": str(folder), "steps": noted(weights, "step", 0)}


@verb("export")
@_FOLDER
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where to. Default: into the package, for `embedded` to draw with.",
)
@click.option("--images", type=click.IntRange(min=1), default=1000, help="Drawn to measure sharpness. Default: 1,000.")
def export_verb(folder: Path | None, out: Path | None, images: int) -> Any:
    """Export a trained generator to ONNX graphs, check them against PyTorch, and sharpen them to real images."""
    from cifake_core.generation import embedded, real, torch_environment
    from cifake_core.generation.export import export

    torch_environment.enter()
    target = out or embedded.WEIGHTS
    described = export(folder or _default_folder(), real.read("train")[0], target, images)
    size = sum((target / name).stat().st_size for name in described.sha256)
    return {"out": str(target), "model_revision": described.version, "bytes": size, **described.training}


@verb("card")
@click.option("--generator", default="embedded", show_default=True, metavar="NAME", help="Whose card.")
@click.option("--images", type=click.IntRange(min=1), default=2000, show_default=True, help="How many to draw.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder for the card.")
@click.option("--epochs", type=click.IntRange(min=1), default=8, show_default=True, help="Of the judge's training.")
@_FOLDER
@_THREADS
@_SEED
def card_verb(generator: str, images: int, out: Path, epochs: int, folder: Path | None, threads: int, seed: int) -> Any:
    """Measure a generator: a grid per class, agreement of a classifier, Fréchet distance, nearest training images.

    The classifier is trained here on the real images of CIFAKE_DATA, once, and kept in --folder.
    """
    from cifake_core.generation import card, torch_environment
    from cifake_core.generation import embedded_training as training

    torch_environment.enter()
    training.prepare(threads)
    return card.make(generator, out, folder or _default_folder(), images, seed, epochs, threads)


def _default_folder() -> Path:
    from cifake_core.settings import settings

    return settings().home / "generator"


for _verb in (plan_verb, run_verb, train_verb, export_verb, card_verb):
    generate.add_command(_verb)
