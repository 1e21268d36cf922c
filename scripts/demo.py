"""The whole system once: the pipeline through Airflow, two verdicts by the served champion, a report to look at."""

from __future__ import annotations

import base64
import os
import shutil
from pathlib import Path
from typing import Any

import click
import numpy as np
from airflow_rest import Airflow, follow, say
from stack import addresses, environment

from cifake_core.client.remote import DetectorClient
from cifake_core.evaluation import pages
from cifake_core.settings import LABELS, settings
from cifake_core.verb import verb

DAG = "cifake_pipeline"
PER_LABEL = 6  # images of each label in the report's grid


def samples(version: str) -> list[tuple[str, str, bytes]]:
    """Test images as (label, class, bytes): `PER_LABEL` of FAKE, then of REAL, drawn by a fixed seed."""
    from cifake_core.images import dataset, records
    from cifake_core.storage import Store

    store = Store()
    table = dataset.read(store, dataset.load(store, version), "test")
    labels, kinds, images = table["label"].to_numpy(), table["class"].to_pylist(), records.image_bytes(table)
    rng = np.random.default_rng(0)
    return [
        (name, kinds[i], images[i])
        for value, name in enumerate(LABELS)
        for i in rng.choice(np.flatnonzero(labels == value), PER_LABEL, replace=False)
    ]


def judge(image: tuple[str, str, bytes], client: DetectorClient, panel: int) -> dict[str, Any]:
    """The served verdict on one image, and its picture of original | heatmap | overlay."""
    truth, kind, data = image
    return {"truth": truth, "kind": kind, "verdict": client.classify(data), "png": client.explain(data, size=panel)}


def run_pictures(run_id: str) -> list[str]:
    """The training's curves and confusion matrix from its MLflow run, as data URIs."""
    import mlflow

    from cifake_core.mlflow_client import client, registry_errors

    client()
    with registry_errors("fetch the pictures of a run"):
        files = [
            mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=name)
            for name in ("training_curves.png", "confusion_matrix.png")
        ]
    return [data_uri(Path(file).read_bytes()) for file in files]


def data_uri(png: bytes) -> str:
    """A PNG to put into a page."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def links(airflow: Airflow, run: str, results: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Name → address of what a reader may want to open next."""
    from cifake_core.mlflow_client import experiment_id

    mlflow = f"{os.environ['MLFLOW_TRACKING_URI']}/#/experiments/{experiment_id()}/runs/{results['train']['run_id']}"
    return {
        "this run in Airflow": f"{airflow.url}/dags/{DAG}/runs/{run}",
        "this training in MLflow": mlflow,
        "validation report": results["validate"]["report_url"],
        "evaluation report": results["evaluate"]["report_url"],
        "gate report": results["promote"]["report_url"],
        "the detector's page": settings().service_url,
    }


def _render(result: dict[str, Any]) -> str:
    told = [
        f"a {each['truth']} {each['kind']}: the detector (version {each['version']}) says {each['label']}, "
        f"P(REAL) = {each['probability_real']:.3f}\n    {each['overlay']}"
        for each in result["verdicts"]
    ]
    steps = [
        f"open {result['report']}",
        f".venv/bin/cifake classify {result['images']} --service {settings().service_url}",
        ".venv/bin/cifake status",
    ]
    where = [f"  {name:12}{value}" for name, value in result["addresses"].items()]
    return "\n".join(
        ["", *told, "", *where, "", "Try next:", *(f"  {each}" for each in steps), "", "Stop it: make down"]
    )


@verb("demo", render=_render)
@click.option("--train-rows", type=int, default=20_000, show_default=True)
@click.option("--test-rows", type=int, default=4_000, show_default=True)
@click.option("--topology", default="seed", show_default=True)
@click.option("--epochs", type=int, default=5, show_default=True)
def demo(**conf: Any) -> dict[str, Any]:
    """Run the pipeline through Airflow, classify one FAKE and one REAL test image, write the report."""
    os.environ["MLFLOW_TRACKING_URI"] = environment()["MLFLOW_TRACKING_URI"]
    settings.cache_clear()
    airflow = Airflow(DAG)
    run = airflow.trigger(conf)
    say(f"pipeline: {airflow.url}/dags/{DAG}/runs/{run}")
    follow(airflow, run)
    results = {task: airflow.result(run, task) for task in ("assemble", "validate", "train", "evaluate", "promote")}
    images = samples(results["validate"]["dataset_version"])
    folder = settings().home / "demo"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "images").mkdir(parents=True)
    with DetectorClient() as client:
        tiles = [judge(each, client, panel=96) for each in images]
        chosen = [judge(each, client, panel=256) for each in (images[0], images[PER_LABEL])]
    for (truth, kind, data), number in zip(images, range(len(images)), strict=True):
        (folder / "images" / f"{truth.lower()}-{number:02d}-{kind}.jpg").write_bytes(data)
    verdicts = []
    for each in chosen:
        overlay = folder / f"overlay-{each['truth'].lower()}.png"
        overlay.write_bytes(each["png"])
        verdicts.append(
            {
                **{key: each[key] for key in ("truth", "kind")},
                **each["verdict"].model_dump(include={"label", "probability_real"}),
                "version": each["verdict"].model.version,
                "overlay": str(overlay),
            }
        )
    page = pages.render(
        "demo.html",
        chosen=chosen,
        tiles=tiles,
        uri=data_uri,
        figures=run_pictures(results["train"]["run_id"]),
        results=results,
        conf=conf,
        links=links(airflow, run, results),
        notes=results["assemble"]["notes"],
    )
    (folder / "report.html").write_text(page)
    return {
        "run": run,
        "verdicts": verdicts,
        "report": str(folder / "report.html"),
        "images": str(folder / "images"),
        "addresses": addresses(settings().monitoring),
        "promoted": results["promote"]["promoted"],
    }


if __name__ == "__main__":
    demo()
