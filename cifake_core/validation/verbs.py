"""`cifake validate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cifake_core.verb import verb


def _render(result: Any) -> str:
    lines = []
    for failure in [*result.failed, *result.warnings]:
        count = f"{failure.unexpected:,} of {failure.checked:,}: " if failure.unexpected else ""
        lines.append(
            f"{failure.severity:8}  {failure.expectation}: {failure.description} Found {count}{failure.observed}"
        )
        lines += [f"          {example}" for example in failure.examples]
    lines += [f"quarantined: {rows:,} rows failed {reason}" for reason, rows in result.quarantined.items()]
    verdict = "accepted" if result.success else "REFUSED"
    lines += [f"dataset version {result.dataset_version}: {verdict}", f"report: {result.report_url}"]
    if result.success:
        lines.append(f"next: cifake train --dataset {result.dataset_version}")
    return "\n".join(lines)


@verb("validate", render=_render)
@click.option("--dataset", "version", metavar="VERSION", required=True, help="The dataset version to check.")
@click.option("--against", metavar="VERSION", help="Also measure drift from this version, per feature and label.")
@click.option(
    "--balance",
    type=click.Choice(["greyscale", "colourfulness"]),
    help="First match FAKE and REAL rows, by greyscale or not or by 20 steps of colour, and check the version made.",
)
@click.option(
    "--max-quarantine",
    type=click.FloatRange(0, 1),
    default=0.01,
    show_default=True,
    help="Largest share of rows that may be set aside; above it the whole version is refused.",
)
@click.option(
    "--expectations",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of suites (*.json) to use instead of the project's.",
)
def validate(version: str, **options: Any) -> Any:
    """Check a dataset version before anything is trained on it.

    \b
    cifake validate --dataset VERSION
    cifake validate --dataset NEW --against OLD
    cifake validate --dataset VERSION --balance greyscale

    Runs the Great Expectations suites in expectations/ over what the images, labels, splits and shortcut audit show.
    Rows with bad images are set aside and the rest becomes a new version, which is what `dataset_version` then names.
    Exit code 1 when the version is refused. The report's address is in `report_url`.
    """
    from cifake_core.errors import CheckFailedError
    from cifake_core.storage import Store
    from cifake_core.validation import gate

    result = gate.validate(Store(), version, **options)
    if not result.success:
        names = ", ".join(failure.expectation for failure in result.failed)
        raise CheckFailedError(f"dataset version {version} is refused by {names}; see {result.report_url}", result)
    return result
