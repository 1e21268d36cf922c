"""What a detector's scores are worth, as plain array code. Labels: FAKE 0, REAL 1; a score is P(REAL) in 0..1."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict

from cifake_core.errors import DatasetError
from cifake_core.settings import LABELS, REAL


class LabelReport(BaseModel, frozen=True):
    """Precision, recall and F1 of one label, each in 0..1, and its number of images."""

    model_config = ConfigDict(extra="forbid")

    precision: float
    recall: float
    f1: float
    rows: int


class Report(BaseModel, frozen=True):
    """A detector on labelled images. `interval` is the 95 % bootstrap interval of the accuracy."""

    model_config = ConfigDict(extra="forbid")

    rows: int
    accuracy: float
    interval: tuple[float, float]
    labels: dict[str, LabelReport]
    confusion: list[list[int]]  # rows: true FAKE, REAL; columns: answered FAKE, REAL
    auroc: float | None  # None when only one label is there
    brier: float
    ece: float
    false_alarm_rate: float | None  # share of REAL answered FAKE


class OperatingPoint(BaseModel, frozen=True):
    """Answering FAKE below `threshold` calls `false_alarm_rate` of REAL fake, and finds `recall` of FAKE."""

    model_config = ConfigDict(extra="forbid")

    asked: float
    threshold: float
    false_alarm_rate: float
    recall: float


class AbstainPoint(BaseModel, frozen=True):
    """Answer only outside `band`: the share of images answered, and the accuracy on those."""

    model_config = ConfigDict(extra="forbid")

    band: tuple[float, float]
    coverage: float
    accuracy: float


def confusion(labels: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """Counts (2, 2) int64 of labels (N,) against answers (N,), both 0 or 1: row true, column answered."""
    return np.bincount(labels.astype(int) * 2 + answers.astype(int), minlength=4).reshape(2, 2)


def binary_report(labels: np.ndarray, scores: np.ndarray, threshold: float = 0.5, seed: int = 0) -> Report:
    """Everything about labels (N,) int and scores (N,) float at one threshold.

    Raises:
        DatasetError: no rows.
    """
    labels, scores = _checked(labels, scores)
    answers = scores >= threshold
    table = confusion(labels, answers)
    correct = answers == labels
    return Report(
        rows=len(labels),
        accuracy=float(correct.mean()),
        interval=bootstrap_interval(correct.astype(float), seed=seed),
        labels={name: _label_report(table, index) for index, name in enumerate(LABELS)},
        confusion=table.tolist(),
        auroc=auroc(labels, scores),
        brier=float(np.mean((scores - labels) ** 2)),
        ece=ece(labels, scores),
        false_alarm_rate=_ratio(table[REAL, 0], table[REAL].sum()) if table[REAL].sum() else None,
    )


def _label_report(table: np.ndarray, index: int) -> LabelReport:
    hits = table[index, index]
    precision, recall = _ratio(hits, table[:, index].sum()), _ratio(hits, table[index].sum())
    return LabelReport(
        precision=precision,
        recall=recall,
        f1=_ratio(2 * precision * recall, precision + recall),
        rows=int(table[index].sum()),
    )


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else 0.0


def _checked(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if not len(labels):
        raise DatasetError("nothing to evaluate: no test rows; build a dataset version with --test-rows above 0")
    return np.asarray(labels).astype(int), np.asarray(scores).astype(np.float64)


def auroc(labels: np.ndarray, scores: np.ndarray) -> float | None:
    """Area under the ROC curve (Hanley & McNeil 1982), ties counted half; None when only one label is there."""
    if len(np.unique(labels)) < 2:
        return None
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(labels, scores))


def reliability(labels: np.ndarray, scores: np.ndarray, bins: int = 15) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean score, share of REAL and count, each (bins,), over equal bins of P(REAL); empty bins are NaN, NaN, 0."""
    index = np.clip((scores * bins).astype(int), 0, bins - 1)
    counts = np.bincount(index, minlength=bins)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(index, weights=scores, minlength=bins) / counts
        share = np.bincount(index, weights=labels, minlength=bins) / counts
    return mean, share, counts


def ece(labels: np.ndarray, scores: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error of P(REAL), 0..1, over equal bins. Guo et al. 2017, https://arxiv.org/abs/1706.04599."""
    mean, share, counts = reliability(labels, scores, bins)
    full = counts > 0
    return float(np.sum(np.abs(mean - share)[full] * counts[full]) / counts.sum())


def bootstrap_interval(
    values: np.ndarray, statistic: Callable[..., np.ndarray] = np.mean, draws: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """95 % percentile interval of a statistic of values (N,) under resampling. Efron & Tibshirani 1993.

    Args:
        statistic: takes an array and `axis`; the mean of 0/1 values is drawn as binomials, which is the same thing.
    """
    rng = np.random.default_rng(seed)
    if statistic is np.mean and set(np.unique(values)) <= {0.0, 1.0}:
        drawn = rng.binomial(len(values), values.mean(), draws) / len(values)
    else:
        drawn = np.stack([statistic(values[rng.integers(0, len(values), len(values))], axis=0) for _ in range(draws)])
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(low), float(high)


def operating_points(
    labels: np.ndarray, scores: np.ndarray, false_alarms: Sequence[float] = (0.01, 0.05)
) -> list[OperatingPoint]:
    """The thresholds at which at most the asked share of REAL is answered FAKE; none when a label is missing."""
    real, fake = np.sort(scores[labels == REAL]), scores[labels != REAL]
    if not len(real) or not len(fake):
        return []
    points = []
    for asked in false_alarms:
        threshold = real[int(np.floor(asked * len(real)))]  # so many REAL lie below it, ties aside
        points.append(
            OperatingPoint(
                asked=asked,
                threshold=float(threshold),
                false_alarm_rate=float((real < threshold).mean()),
                recall=float((fake < threshold).mean()),
            )
        )
    return points


def abstain_points(
    labels: np.ndarray, scores: np.ndarray, halves: Sequence[float] = (0.1, 0.2, 0.3, 0.4, 0.45)
) -> list[AbstainPoint]:
    """Coverage and accuracy when scores within `half` of 0.5 are answered UNSURE (selective classification).

    El-Yaniv & Wiener 2010, https://jmlr.org/papers/v11/el-yaniv10a.html.
    """
    points = []
    for half in halves:
        answered = np.abs(scores - 0.5) >= half
        correct = (scores >= 0.5) == labels
        points.append(
            AbstainPoint(
                band=(0.5 - half, 0.5 + half),
                coverage=float(answered.mean()),
                accuracy=float(correct[answered].mean()) if answered.any() else 0.0,
            )
        )
    return points


def mcnemar(better: int, worse: int) -> float:
    """One-sided exact McNemar p-value that the first model is no better than the second. McNemar 1947.

    Args:
        better: images only the first model answers rightly.
        worse: images only the second model answers rightly.
    """
    from scipy.stats import binomtest

    return float(binomtest(better, better + worse, 0.5, alternative="greater").pvalue) if better + worse else 1.0


def paired_p(changes: np.ndarray) -> float:
    """One-sided p-value of a paired t-test: how often chance alone makes the mean of changes (N,) this low."""
    from scipy.stats import ttest_1samp

    if not changes.std():
        return 0.0 if changes.mean() < 0 else 1.0
    return float(ttest_1samp(changes, 0, alternative="less").pvalue)
