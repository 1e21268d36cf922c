"""What evaluating a version leaves in its MLflow run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cifake_core.mlflow_client import client
from cifake_core.registry.evaluate import evaluate_version
from tests.evaluation.test_report import write_tiles
from tests.registry import voting
from tests.registry.conftest import Field
from tests.registry.voting import share


def _logged(version: int) -> tuple[dict[str, float], list[str]]:
    run_id = client().get_model_version("cifake-detector", str(version)).run_id
    reports = [item.path for item in client().list_artifacts(run_id, "evaluation")]
    return client().get_run(run_id).data.metrics, reports


def test_another_datasets_figures_do_not_take_the_place_of_its_own(field: Callable[..., Field]) -> None:
    f = field(share(0.9))
    (number,) = f.versions
    own = evaluate_version(str(number), damage_rows=20)
    other = voting.write_images(f.store, 200, [share(0.6)]).version
    again = evaluate_version(str(number), other, damage_rows=20)
    metrics, reports = _logged(number)
    assert metrics["test/accuracy"] == own["metrics"]["accuracy"]
    assert metrics[f"test/{other}/accuracy"] == again["metrics"]["accuracy"] != own["metrics"]["accuracy"]
    assert {"evaluation/report.html", f"evaluation/{other}"} <= set(reports)


def test_a_generator_of_any_name_has_its_figures(field: Callable[..., Field], tmp_path: Path) -> None:
    f = field(share(0.9))
    tiles = write_tiles(tmp_path / "my tiles.parquet", 4, generator=["net+ (img2img)"] * 4)
    evaluate_version(str(f.versions[0]), unseen=tiles, damage_rows=20)
    assert [name for name in _logged(f.versions[0])[0] if "net_ _img2img_" in name]
