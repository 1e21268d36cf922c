"""The shortcut audit: can the label be read off something that is not the picture?

Each audit gives a small model a few columns of the feature table and reports the cross-validated area under the ROC
curve with its interval: 0.5 is no shortcut, 1 is a label written on the file.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from cifake_core.images.sample import NAME as OFFLINE_SAMPLE

if TYPE_CHECKING:
    import pandas as pd

ROWS = 10_000  # audited at most; the interval is then about ±0.011 at 0.5
FOLDS = 5
FEWEST = 10  # rows of each label, below which nothing can be said
CONTAINER = (
    *("format", "width", "height", "mode", "channels", "quality", "tables", "subsampling", "progressive", "exif"),
    *("metadata_bytes", "header_bytes", "header_hash", "trailing_bytes"),
)
TRIVIAL = (
    *("mean_r", "mean_g", "mean_b", "std_r", "std_g", "std_b", "colourfulness"),
    *("entropy", "edge_energy", "high_frequency"),
)
TRACES = ("trace_q30", "trace_q40", "trace_q50", "trace_q60", "trace_q65")
COLUMNS = ("audit", "part", "rows", "offline_sample", "auc", "auc_low", "auc_high", "carried_by")


def audit(features: pd.DataFrame) -> pd.DataFrame:
    """The audits of a feature table, one row each, COLUMNS; `auc` is NaN where there are too few rows to say.

    `container`: file facts. `order`: place in the split. `name`: file name without folders. `trivial`: means,
    deviations, edges, spectrum; `trivial_with_size`: these and the encoded size; `greyscale`: colourfulness alone;
    `compression`: traces of another JPEG quality before the last. `part` is `train` (train and validation) or `test`.
    """
    import pandas as pd

    usable = features[features["decodes"] & features["label"].isin(("FAKE", "REAL"))]
    parts = {"train": usable[usable["split"] != "test"], "test": usable[usable["split"] == "test"]}
    offline = bool((features["source"] == OFFLINE_SAMPLE).all())
    rows = []
    for part, frame in parts.items():
        sample = frame.sample(min(len(frame), ROWS), random_state=0).sort_values("row")
        label = (sample["label"] == "REAL").to_numpy()
        for name, columns in _audited(sample, frame).items():
            facts = {"audit": name, "part": part, "rows": len(sample), "offline_sample": offline}
            rows.append({**facts, **_score(columns, label)})
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _audited(sample: pd.DataFrame, frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    trivial = sample[list(TRIVIAL)]
    return {
        "container": sample[list(CONTAINER)],
        "order": _order(sample, frame),
        "name": _name(sample),
        "trivial": trivial,
        "trivial_with_size": trivial.assign(file_bytes=sample["file_bytes"]),
        "greyscale": sample[["colourfulness"]],
        "compression": sample[list(TRACES)],
    }


def _order(sample: pd.DataFrame, frame: pd.DataFrame) -> pd.DataFrame:
    """Place in the split, its lowest bits (labels that alternate), and the label of the row before (labels in runs)."""
    import pandas as pd

    before = (frame["label"] == "REAL").groupby(frame["split"]).shift(1).astype(float)
    bits = {f"bit_{k}": (sample["row"].to_numpy() >> k) & 1 for k in range(4)}
    return pd.DataFrame(
        {"position": sample["position"], "label_before": before.loc[sample.index], **bits}, index=sample.index
    )


def _name(sample: pd.DataFrame) -> pd.DataFrame:
    import pandas as pd

    names = [(path or "").rsplit("/", 1)[-1] for path in sample["path"].fillna("")]
    shape = [
        re.sub(r"\d+", "9", re.sub(r" \(\d+\)", "", name)) for name in names
    ]  # the number in brackets is the class
    return pd.DataFrame({"number": sample["path_number"].to_numpy(), "shape": shape}, index=sample.index)


def _score(columns: pd.DataFrame, label: np.ndarray) -> dict[str, float | str | None]:
    if min(label.sum(), (~label).sum()) < FEWEST:
        return {"auc": np.nan, "auc_low": np.nan, "auc_high": np.nan, "carried_by": None}
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from threadpoolctl import threadpool_limits

    matrix = _numbers(columns)
    alone = {}
    for index, name in enumerate(columns.columns):
        area, _ = delong(np.nan_to_num(matrix[:, index], nan=-1), label)
        alone[name] = max(area, 1 - area)
    varying = [i for i in range(matrix.shape[1]) if len(np.unique(matrix[~np.isnan(matrix[:, i]), i])) > 1]
    if not varying:
        return {"auc": 0.5, "auc_low": 0.5, "auc_high": 0.5, "carried_by": None}
    model = HistGradientBoostingClassifier(
        max_iter=20, max_leaf_nodes=15, learning_rate=0.3, early_stopping=False, random_state=0
    )
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    with threadpool_limits(1):  # OpenMP's workers spin: beside other busy processes two threads are far slower than one
        chance = cross_val_predict(model, matrix[:, varying], label, cv=folds, method="predict_proba")[:, 1]
    area, deviation = delong(chance, label)
    best = sorted(alone, key=lambda name: -alone[name])[:3]
    return {
        "auc": area,
        "auc_low": max(0.0, area - 1.96 * deviation),
        "auc_high": min(1.0, area + 1.96 * deviation),
        "carried_by": ", ".join(f"{name} {alone[name]:.2f}" for name in best),
    }


def _numbers(columns: pd.DataFrame) -> np.ndarray:
    """Columns as floats; words become their rank in the alphabet, missing values NaN."""
    import pandas as pd

    out = np.empty(columns.shape)
    for index, name in enumerate(columns):
        column = columns[name]
        if not (pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column)):
            codes = pd.Categorical(column.astype("string")).codes.astype(float)
            out[:, index] = np.where(codes < 0, np.nan, codes)
        else:
            out[:, index] = column.to_numpy(float, na_value=np.nan)
    return out


def delong(score: np.ndarray, label: np.ndarray) -> tuple[float, float]:
    """Area under the ROC curve and its standard deviation (DeLong et al. 1988, https://doi.org/10.2307/2531595).

    Args:
        score: (N,) float, higher for True.
        label: (N,) bool, both values present.
    """
    from scipy.stats import rankdata

    positive, negative = score[label], score[~label]
    m, n = len(positive), len(negative)
    ranks = rankdata(np.r_[positive, negative])
    above = (ranks[:m] - rankdata(positive)) / n
    below = 1 - (ranks[m:] - rankdata(negative)) / m
    return float(above.mean()), float(np.sqrt(above.var(ddof=1) / m + below.var(ddof=1) / n))
