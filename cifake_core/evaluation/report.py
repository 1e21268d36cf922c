"""One call, one report: everything measured about a score function on a test set, as JSON and as one HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, ConfigDict

from cifake_core.evaluation import metrics, pages
from cifake_core.evaluation.averaging import Average
from cifake_core.evaluation.testset import UNSEEN, WHOLE, Scored, TestSet
from cifake_core.settings import LABELS, REAL

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN_WRONG = 24


class SliceReport(BaseModel, frozen=True):
    """Accuracy on one slice, with its 95 % bootstrap interval."""

    model_config = ConfigDict(extra="forbid")

    name: str
    rows: int
    accuracy: float
    interval: tuple[float, float]


class UnseenReport(BaseModel, frozen=True):
    """How much of an unseen generator's (or family's) images is found, and AUROC against the test set's REAL."""

    model_config = ConfigDict(extra="forbid")

    name: str
    rows: int
    recall: float
    recall_at_5: float | None  # at the threshold that calls 5 % of the test set's REAL fake
    auroc: float | None


class Evaluation(BaseModel, frozen=True):
    """All that was measured."""

    model_config = ConfigDict(extra="forbid")

    model: str
    dataset_version: str
    threshold: float
    whole: metrics.Report
    operating_points: list[metrics.OperatingPoint]
    abstain_points: list[metrics.AbstainPoint]
    slices: list[SliceReport]
    unseen: list[UnseenReport]
    notes: list[str] = []
    averages: list[Average] = []  # test-time averaging: in no other figure

    def scalars(self) -> dict[str, float]:
        """The figures worth tracking, flat: what goes to MLflow and into a verb's JSON."""
        named = {
            "accuracy": self.whole.accuracy,
            "auroc": self.whole.auroc,
            "brier": self.whole.brier,
            "ece": self.whole.ece,
            "false_alarm_rate": self.whole.false_alarm_rate,
        }
        for label, row in self.whole.labels.items():
            for kind in ("precision", "recall", "f1"):
                named[f"{kind}_{label.lower()}"] = getattr(row, kind)
        for part in self.slices:
            named[f"slice/{part.name.replace(':', '/')}"] = part.accuracy
        for generator in self.unseen:
            named[f"unseen/{generator.name}/auroc"] = generator.auroc
            named[f"unseen/{generator.name}/recall"] = generator.recall
        for average in self.averages:
            named[f"averaged/{average.name}/accuracy"] = average.averaged
            named[f"averaged/{average.name}/gain"] = average.averaged - average.plain
        return {name: float(value) for name, value in named.items() if value is not None}


def summarise(model: str, testset: TestSet, scored: dict[str, Scored], averages: Sequence[Average] = ()) -> Evaluation:
    """Everything the report holds, from the scores of `testset.score_slices`, and what `averaging.measure` found.

    Raises:
        DatasetError: the test set is empty.
    """
    whole = scored[WHOLE]
    points = metrics.operating_points(whole.labels, whole.scores)
    real = whole.scores[whole.labels == REAL]
    unseen, parts = [], []
    for name, part in scored.items():
        if name.startswith(UNSEEN):
            both = np.concatenate([part.labels, np.full(len(real), REAL)]), np.concatenate([part.scores, real])
            unseen.append(
                UnseenReport(
                    name=name.removeprefix(UNSEEN),
                    rows=len(part.labels),
                    recall=float(part.correct.mean()),
                    recall_at_5=float((part.scores < points[-1].threshold).mean()) if points else None,
                    auroc=metrics.auroc(*both),
                )
            )
        elif name != WHOLE:
            interval = metrics.bootstrap_interval(part.correct.astype(float))
            parts.append(
                SliceReport(name=name, rows=len(part.labels), accuracy=float(part.correct.mean()), interval=interval)
            )
    return Evaluation(
        model=model,
        dataset_version=testset.dataset_version,
        threshold=whole.threshold,
        whole=metrics.binary_report(whole.labels, whole.scores, whole.threshold),
        operating_points=points,
        abstain_points=metrics.abstain_points(whole.labels, whole.scores),
        slices=parts,
        unseen=unseen,
        notes=testset.notes,
        averages=list(averages),
    )


def page(evaluation: Evaluation, testset: TestSet, scored: dict[str, Scored]) -> str:
    """The report as one HTML page that carries its pictures."""
    whole = scored[WHOLE]
    sure = np.abs(whole.scores - whole.threshold)
    worst = sorted(np.flatnonzero(~whole.correct), key=lambda i: -sure[i])[:SHOWN_WRONG]
    return pages.render(
        "report.html",
        e=evaluation,
        figures=[
            {"src": pages.chart(_reliability(whole)), "alt": "reliability diagram and histogram of scores"},
            {"src": pages.chart(_confusion(evaluation.whole.confusion)), "alt": "confusion matrix"},
        ],
        wrong=[
            {
                "src": pages.picture(np.asarray(testset.images[i])),
                "truth": LABELS[whole.labels[i]],
                "kind": testset.classes[i],
                "score": whole.scores[i],
            }
            for i in worst
        ],
    )


def _reliability(whole: Scored) -> Figure:
    from matplotlib.figure import Figure

    mean, share, counts = metrics.reliability(whole.labels, whole.scores)
    figure = Figure(figsize=(5, 4.4))
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    top.plot([0, 1], [0, 1], color="grey", linewidth=1, linestyle="--")
    top.plot(mean[counts > 0], share[counts > 0], marker="o", color="#0969da")
    top.set(ylabel="share of REAL", ylim=(-0.03, 1.03), title="Reliability")
    for label, colour in ((0, "#cf222e"), (1, "#1a7f37")):
        bottom.hist(whole.scores[whole.labels == label], 30, range=(0, 1), alpha=0.6, color=colour, label=LABELS[label])
    bottom.set(xlabel="P(REAL)", ylabel="images", yscale="log")
    bottom.legend(fontsize=8)
    return figure


def _confusion(table: list[list[int]]) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4, 4.4))
    axes = figure.subplots()
    axes.imshow(table, cmap="Blues")
    for row in range(2):
        for column in range(2):
            dark = table[row][column] > max(map(max, table)) / 2
            axes.text(
                column, row, f"{table[row][column]:,}", ha="center", va="center", color="white" if dark else "black"
            )
    axes.set(xticks=(0, 1), yticks=(0, 1), xticklabels=LABELS, yticklabels=LABELS)
    axes.set(xlabel="answered", ylabel="true", title="Confusion")
    return figure
