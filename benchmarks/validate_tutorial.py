"""The checks of `cifake validate` as the libraries' tutorials would write them; run by `benchmarks.validate`.

One loop over the images, expectations made in code, a checkpoint with every failing row listed. It leaves out what a
tutorial has no answer to: near duplicates across splits, traces of an earlier compression, intervals of the AUCs,
quarantine, drift, and a report with images.

python -m benchmarks.validate_tutorial FOLDER_OF_A_DATASET_VERSION
"""

import hashlib
import io
import json
import sys
from pathlib import Path

import great_expectations as gx
import great_expectations.expectations as gxe
import numpy as np
import pandas as pd
from great_expectations.checkpoint import UpdateDataDocsAction
from PIL import Image, JpegImagePlugin
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import StratifiedKFold, cross_val_score

from cifake_core.settings import CLASSES

folder = Path(sys.argv[1])
manifest = json.loads((folder / "manifest.json").read_text())

# Read the shards
shards, parts = [], []
for shard in manifest["shards"]:
    data = (folder / shard["name"]).read_bytes()
    part = pd.read_parquet(io.BytesIO(data))
    part["split"] = shard["split"]
    parts.append(part)
    shards.append(
        {
            "shard": shard["name"],
            "rows": len(part),
            "rows_in_manifest": shard["rows"],
            "as_recorded": hashlib.sha256(data).hexdigest() == shard["sha256"],
        }
    )
shards = pd.DataFrame(shards)
images = pd.concat(parts, ignore_index=True)
images["label"] = images["label"].map({0: "FAKE", 1: "REAL"})

# The quantisation tables of JPEG quality 75
buffer = io.BytesIO()
Image.new("RGB", (8, 8)).save(buffer, "JPEG", quality=75)
quality_75 = Image.open(io.BytesIO(buffer.getvalue())).quantization

# Look at each image
rows = []
for record in images["image"]:
    data, row = record["bytes"], {"path": record["path"]}
    row["content_hash"] = hashlib.sha256(data).hexdigest()
    row["file_bytes"] = len(data)
    number = Path(record["path"]).stem.split("(")
    row["number"] = int(number[0])
    row["path_class"] = CLASSES[int(number[1].rstrip(")")) - 1] if len(number) > 1 else CLASSES[0]
    try:
        image = Image.open(io.BytesIO(data))
        row["format"], row["mode"] = image.format, image.mode
        row["width"], row["height"] = image.size
        row["quality"] = 75 if image.quantization == quality_75 else 0
        row["subsampling"] = JpegImagePlugin.get_sampling(image)
        row["progressive"] = bool(image.info.get("progressive", False))
        row["exif"] = len(image.getexif()) > 0
        row["metadata"] = sum(len(image.info.get(key, b"")) for key in ("exif", "icc_profile", "comment", "xmp"))
        row["header_bytes"] = data.find(b"\xff\xda")
        row["trailing"] = len(data) - data.rfind(b"\xff\xd9") - 2
        pixels = np.asarray(image.convert("RGB")).astype(float)
        row["decodes"] = True
    except Exception:
        row["decodes"] = False
        rows.append(row)
        continue
    luma = np.asarray(image.convert("L")).astype(float)
    for channel, name in enumerate("rgb"):
        row[f"mean_{name}"], row[f"std_{name}"] = pixels[..., channel].mean(), pixels[..., channel].std()
    row["brightness"], row["contrast"] = luma.mean(), luma.std()
    row["colourfulness"] = (pixels.max(2) - pixels.min(2)).mean()
    row["greyscale"] = row["colourfulness"] < 2
    share = np.histogram(luma, 256, (0, 256))[0] / luma.size
    row["entropy"] = -(share[share > 0] * np.log2(share[share > 0])).sum()
    row["edge_energy"] = (np.abs(np.diff(luma, axis=0)).mean() + np.abs(np.diff(luma, axis=1)).mean()) / 2
    power = np.abs(np.fft.fft2(luma - luma.mean())) ** 2
    far = np.hypot(np.fft.fftfreq(32)[:, None], np.fft.fftfreq(32)) > 0.25
    row["high_frequency"] = power[far].sum() / max(power.sum(), 1e-6)
    row["flat"], row["black"] = row["contrast"] < 0.75, luma.max() < 4
    rows.append(row)
images = pd.concat([images.drop(columns="image"), pd.DataFrame(rows)], axis=1)
images["position"] = images.groupby("split").cumcount() / images.groupby("split")["split"].transform("size")

# Count labels, classes and splits
groups = images.groupby(["split", "label", "class"]).size().rename("rows").reset_index()
groups["ratio_to_even"] = groups["rows"] / (groups["split"].map(images.groupby("split").size()) / 20)
in_splits = images["content_hash"].map(images.groupby("content_hash")["split"].nunique())
train_mix = images[(images["split"] == "train") & (images["label"] == "FAKE")]["generator"].value_counts(normalize=True)
generators = set(images["generator"].dropna())
splits = []
for name, part in images.groupby("split"):
    grey = part.groupby("label")["greyscale"].mean()
    mix = part[part["label"] == "FAKE"]["generator"].value_counts(normalize=True)
    splits.append(
        {
            "split": name,
            "rows": len(part),
            "share": len(part) / len(images),
            "real_share": (part["label"] == "REAL").mean(),
            "exact_duplicate_share": part["content_hash"].duplicated().mean(),
            "in_another_split": int((in_splits[part.index] > 1).sum()),
            "greyscale_gap": grey["FAKE"] - grey["REAL"],
            "missing_generators": len(generators - set(part["generator"].dropna())),
            "generator_distance": train_mix.sub(mix, fill_value=0).abs().sum() / 2,
        }
    )
splits = pd.DataFrame(splits)

# Can the label be told from something that is not the picture?
TRIVIAL = [f"{kind}_{channel}" for kind in ("mean", "std") for channel in "rgb"]
TRIVIAL += ["colourfulness", "entropy", "edge_energy", "high_frequency"]
CONTAINER = ["width", "height", "quality", "subsampling", "progressive", "exif", "metadata", "header_bytes", "trailing"]
AUDITS = {
    "container": CONTAINER,
    "order": ["position"],
    "name": ["number"],
    "trivial": TRIVIAL,
    "trivial_with_size": [*TRIVIAL, "file_bytes"],
    "greyscale": ["colourfulness"],
}
shortcuts = []
for part, frame in (("train", images[images["split"] != "test"]), ("test", images[images["split"] == "test"])):
    for audit, columns in AUDITS.items():
        model = HistGradientBoostingClassifier(random_state=0)
        folds = StratifiedKFold(5, shuffle=True, random_state=0)
        scores = cross_val_score(
            model, frame[columns].astype(float), frame["label"] == "REAL", cv=folds, scoring="roc_auc"
        )
        shortcuts.append({"audit": audit, "part": part, "auc": scores.mean()})
shortcuts = pd.DataFrame(shortcuts)

# Expectations
made_by_us = 'label == "FAKE" and source not in ["cifake", "offline-sample", "folder"]'
suites = {
    "images": [
        gxe.ExpectColumnValuesToBeInSet(column="decodes", value_set=[True]),
        gxe.ExpectColumnValuesToBeInSet(column="format", value_set=["JPEG"]),
        gxe.ExpectColumnValuesToBeBetween(column="width", min_value=32, max_value=32),
        gxe.ExpectColumnValuesToBeBetween(column="height", min_value=32, max_value=32),
        gxe.ExpectColumnValuesToBeInSet(column="mode", value_set=["RGB"]),
        gxe.ExpectColumnValuesToBeInSet(column="quality", value_set=[75]),
        gxe.ExpectColumnValuesToBeInSet(column="subsampling", value_set=[2]),
        gxe.ExpectColumnValuesToBeInSet(column="progressive", value_set=[False]),
        gxe.ExpectColumnValuesToBeInSet(column="exif", value_set=[False]),
        gxe.ExpectColumnValuesToBeBetween(column="metadata", min_value=0, max_value=0),
        gxe.ExpectColumnValuesToBeBetween(column="trailing", min_value=0, max_value=0),
        gxe.ExpectColumnValuesToBeBetween(column="file_bytes", min_value=600, max_value=4000, severity="warning"),
        gxe.ExpectColumnValuesToBeInSet(column="black", value_set=[False]),
        gxe.ExpectColumnValuesToBeInSet(column="flat", value_set=[False]),
        gxe.ExpectColumnMeanToBeBetween(column="brightness", min_value=60, max_value=200),
        gxe.ExpectColumnMeanToBeBetween(column="contrast", min_value=20, max_value=100),
        gxe.ExpectColumnValuesToBeBetween(column="entropy", min_value=3, max_value=8, mostly=0.995, severity="warning"),
        gxe.ExpectColumnValuesToNotBeNull(column="label"),
        gxe.ExpectColumnValuesToBeInSet(column="label", value_set=["FAKE", "REAL"]),
        gxe.ExpectColumnValuesToNotBeNull(column="class"),
        gxe.ExpectColumnValuesToBeInSet(column="class", value_set=list(CLASSES)),
        gxe.ExpectColumnPairValuesToBeEqual(column_A="class", column_B="path_class"),
        gxe.ExpectColumnValuesToNotBeNull(column="source"),
        gxe.ExpectColumnValuesToNotBeNull(
            column="generator", row_condition='label == "FAKE"', condition_parser="pandas"
        ),
        gxe.ExpectColumnValuesToBeNull(column="generator", row_condition='label == "REAL"', condition_parser="pandas"),
        gxe.ExpectColumnValuesToNotBeNull(column="seed", row_condition=made_by_us, condition_parser="pandas"),
        gxe.ExpectColumnValuesToNotBeNull(column="model_revision", row_condition=made_by_us, condition_parser="pandas"),
        gxe.ExpectColumnValuesToBeBetween(
            column="steps", min_value=1, max_value=1000, row_condition=made_by_us, condition_parser="pandas"
        ),
    ],
    "shards": [
        gxe.ExpectColumnValuesToBeInSet(column="as_recorded", value_set=[True]),
        gxe.ExpectColumnPairValuesToBeEqual(column_A="rows", column_B="rows_in_manifest"),
    ],
    "groups": [
        gxe.ExpectColumnValuesToBeBetween(column="ratio_to_even", min_value=0.5, max_value=1.5),
        gxe.ExpectColumnValuesToBeBetween(column="ratio_to_even", min_value=0.8, max_value=1.2, severity="warning"),
    ],
    "splits": [
        gxe.ExpectColumnValuesToBeBetween(column="rows", min_value=10),
        gxe.ExpectColumnValuesToBeBetween(
            column="share",
            min_value=0.05,
            max_value=0.4,
            row_condition='split == "validation"',
            condition_parser="pandas",
            severity="warning",
        ),
        gxe.ExpectColumnValuesToBeBetween(column="real_share", min_value=0.45, max_value=0.55),
        gxe.ExpectColumnValuesToBeBetween(column="in_another_split", max_value=0),
        gxe.ExpectColumnValuesToBeBetween(column="exact_duplicate_share", max_value=0.05),
        gxe.ExpectColumnValuesToBeBetween(column="exact_duplicate_share", max_value=0.005, severity="warning"),
        gxe.ExpectColumnValuesToBeBetween(column="greyscale_gap", min_value=-0.05, max_value=0.05, severity="warning"),
        gxe.ExpectColumnValuesToBeBetween(column="missing_generators", max_value=0, severity="warning"),
        gxe.ExpectColumnValuesToBeBetween(column="generator_distance", max_value=0.1, severity="warning"),
    ],
    "shortcuts": [
        gxe.ExpectColumnValuesToBeBetween(
            column="auc",
            max_value=limit,
            row_condition=f'audit == "{audit}"',
            condition_parser="pandas",
            severity=severity,
        )
        for audit, limit, severity in (
            ("container", 0.55, "critical"),
            ("order", 0.55, "critical"),
            ("trivial", 0.95, "critical"),
            ("trivial_with_size", 0.95, "critical"),
            ("greyscale", 0.65, "warning"),
            ("name", 0.55, "warning"),
        )
    ],
}
frames = {"images": images, "shards": shards, "groups": groups, "splits": splits, "shortcuts": shortcuts}
context = gx.get_context(mode="ephemeral")
source = context.data_sources.add_pandas("pandas")
failed = []
for name, expectations in suites.items():
    batch = source.add_dataframe_asset(name).add_batch_definition_whole_dataframe("all")
    suite = context.suites.add(gx.ExpectationSuite(name=name))
    for expectation in expectations:
        suite.add_expectation(expectation)
    definition = context.validation_definitions.add(gx.ValidationDefinition(name=name, data=batch, suite=suite))
    checkpoint = gx.Checkpoint(
        name=name,
        validation_definitions=[definition],
        actions=[UpdateDataDocsAction(name="docs")],
        result_format={"result_format": "COMPLETE"},
    )
    result = checkpoint.run(batch_parameters={"dataframe": frames[name]})
    for validated in result.run_results.values():
        failed += [r.expectation_config.type for r in validated.results if not r.success]
print(json.dumps({"failed": failed, "auc": {f"{r.audit}/{r.part}": round(r.auc, 4) for r in shortcuts.itertuples()}}))
