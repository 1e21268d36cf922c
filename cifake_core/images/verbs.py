"""`cifake data`: collect, build, list, show."""

from __future__ import annotations

from typing import Any

import click

from cifake_core.verb import verb


@click.group()
def data() -> None:
    """Collect images and build immutable dataset versions.

    \b
    cifake data build                     everything the source has
    cifake data build --train-rows 2000 --test-rows 500
    cifake data show VERSION --grid sample.png

    Images come from CIFAKE_DATA (a folder or URL: CIFAKE or CIFAR-10 as Parquet, or Kaggle's folders), else from the
    local cache, the Hugging Face hub, or, last, an offline sample that is fit for trying things out only.
    """


def _rows(side: str, of: str) -> Any:
    return click.option(
        f"--{side}-rows", type=click.IntRange(min=0), help=f"Rows for the {side} side, {of}. Default: all there are."
    )


_SEED = click.option("--seed", type=int, default=0, show_default=True, help="Decides which rows, and their order.")
_SKIP = click.option("--skip-rejected", is_flag=True, help="Leave damaged or unsupported images out, and count them.")


def _render_build(shown: dict[str, Any]) -> str:
    lines = [f"dataset version {shown['dataset_version']}: {shown['rows']:,} rows"]
    lines += [f"  {s}: " + ", ".join(f"{n:,} {k}" for k, n in of.items()) for s, of in shown["counts"].items()]
    lines += [f"  left out: {n:,} {reason}" for reason, n in shown["parameters"]["left_out"].items()]
    lines += [f"  note: {note}" for note in shown["notes"]]
    return "\n".join([*lines, f"next: cifake validate --dataset {shown['dataset_version']}"])


def _render_list(shown: dict[str, Any]) -> str:
    rows = [f"{v['version']}  {v['rows']:>8,} rows  FAKE by {', '.join(v['generators'])}" for v in shown["versions"]]
    return "\n".join(rows) or "no dataset version yet; make one with `cifake data build`"


def _render_show(shown: dict[str, Any]) -> str:
    lines = [f"dataset version {shown['version']}: {shown['rows']:,} rows"]
    for split, labels in shown["classes"].items():
        for label, classes in labels.items():
            counts = ", ".join(f"{name} {n:,}" for name, n in classes.items())
            lines.append(f"  {split} {label} {sum(classes.values()):,}: {counts}")
        lines.append(f"  {split}: {shown['duplicates'][split]:,} rows repeat an earlier row's image")
    lines.append(f"  generators: {', '.join(shown['generators'])}; sources: {', '.join(shown['sources'])}")
    lines += [f"  note: {note}" for note in shown["notes"]]
    lines += [f"  grid: {shown['grid']}"] if "grid" in shown else []
    return "\n".join(lines)


@verb("collect")
@click.option("--label", type=click.Choice(["REAL", "FAKE"]), required=True, help="Which label.")
@_rows("train", "balanced over classes")
@_rows("test", "balanced over classes")
@_SEED
@_SKIP
def collect(label: str, **options: Any) -> Any:
    """Copy one label's images from the source into the store, every one in the canonical form.

    \b
    cifake data collect --label REAL --train-rows 5000 --test-rows 1000

    Prints `rows_url`: hand it to `cifake data build --real` or `--fake`.
    """
    from cifake_core.images import assemble
    from cifake_core.settings import LABELS
    from cifake_core.storage import Store

    return assemble.collect(Store(), LABELS.index(label), **options)


@verb("build", render=_render_build)
@click.option("--real", metavar="URL", help="Collection of REAL images. Default: the source's.")
@click.option("--fake", metavar="URL", multiple=True, help="Collection of FAKE images; may be given more than once.")
@_rows("train", "over both labels, balanced over label and class")
@_rows("test", "over both labels, balanced over label and class")
@_SEED
@click.option(
    "--validation-fraction",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.2,
    show_default=True,
    help="Share of the train side that becomes the validation split.",
)
@_SKIP
def build(**options: Any) -> Any:
    """Assemble a dataset version: train, validation and test, balanced, shuffled, no image in two splits.

    \b
    cifake data build --train-rows 10000 --test-rows 2000
    cifake data build --real file:///…/collections/cifake-real-… --fake file:///…/collections/embedded-…

    The same rows give the same version; a version that exists is never rewritten. A label without a URL is read from
    the source. It is safe to interrupt this at any point and run it again.
    """
    from cifake_core.images import assemble
    from cifake_core.storage import Store

    manifest = assemble.build(Store(), **options)
    return {"dataset_version": manifest.version, **manifest.model_dump(mode="json")}


@verb("list", render=_render_list)
def list_versions() -> Any:
    """List the dataset versions in the store."""
    from cifake_core.images import dataset
    from cifake_core.storage import Store

    store = Store()
    manifests = [dataset.load(store, version) for version in dataset.versions(store)]
    return {
        "versions": [
            {"version": m.version, "rows": m.rows, "generators": sorted(set().union(*m.generators.values()))}
            for m in manifests
        ]
    }


@verb("show", render=_render_show)
@click.argument("version")
@click.option("--grid", metavar="PNG", type=click.Path(dir_okay=False), help="Also write a picture of sample rows.")
def show(version: str, grid: str | None) -> Any:
    """Show what a dataset VERSION holds: rows per split, label and class, duplicates, generators, notes.

    \b
    cifake data show 5b1f0c9a7d3e2f41 --grid sample.png
    """
    from cifake_core.images import dataset, summary
    from cifake_core.storage import Store

    store = Store()
    manifest = dataset.load(store, version)
    shown = summary.summarise(store, manifest)
    if grid:
        summary.write_grid(store, manifest, grid)
        shown["grid"] = grid
    return shown


for _verb in (collect, build, list_versions, show):
    data.add_command(_verb)
