"""Pictures of a training, as PNG files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cifake_core.settings import LABELS


def curves(history: list[dict[str, float]], file: Path) -> None:
    """Loss, accuracy and F1 by epoch, train and validation."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(10, 3.2), layout="constrained")
    epochs = np.arange(1, len(history) + 1)
    for axes, name in zip(figure.subplots(1, 3), ("loss", "accuracy", "f1"), strict=True):
        for key, label in ((name, "train"), (f"val_{name}", "validation")):
            if key in history[0]:
                axes.plot(epochs, [epoch[key] for epoch in history], marker="o", markersize=3, label=label)
        axes.set(title=name, xlabel="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(file, dpi=120)


def confusion(table: list[list[int]], title: str, file: Path) -> None:
    """A confusion matrix [[FAKE→FAKE, FAKE→REAL], [REAL→FAKE, REAL→REAL]], with each true label's shares."""
    from matplotlib.figure import Figure

    counts = np.array(table)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    figure = Figure(figsize=(4.2, 3.8), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), share in np.ndenumerate(shares):
        text = f"{counts[row, column]:,}\n{share:.1%}"
        axes.text(column, row, text, ha="center", va="center", color="white" if share > 0.5 else "black")
    axes.set(xticks=[0, 1], yticks=[0, 1], xticklabels=LABELS, yticklabels=LABELS)
    axes.set(xlabel="answered", ylabel="true", title=title)
    figure.savefig(file, dpi=120)


def heat_map(accuracy: np.ndarray, across: tuple[str, list[int]], down: tuple[str, list[int]], file: Path) -> None:
    """Test accuracies (rows, columns), 0–1, as the paper's tables lay them out; the best is framed."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    figure = Figure(figsize=(1.6 + 0.95 * accuracy.shape[1], 1.2 + 0.6 * accuracy.shape[0]), layout="constrained")
    axes = figure.subplots()
    axes.imshow(accuracy, cmap="viridis", aspect="auto")
    middle = (accuracy.min() + accuracy.max()) / 2
    for (row, column), value in np.ndenumerate(accuracy):
        colour = "black" if value > middle else "white"
        axes.text(column, row, f"{100 * value:.2f}", ha="center", va="center", color=colour)
    row, column = np.unravel_index(accuracy.argmax(), accuracy.shape)
    axes.add_patch(Rectangle((float(column) - 0.48, float(row) - 0.48), 0.96, 0.96, fill=False, color="red", lw=2))
    for axis, (name, values) in ((axes.xaxis, across), (axes.yaxis, down)):
        axis.set_ticks(range(len(values)), [str(value) for value in values])
        axis.set_label_text(name)
    axes.set_title("test accuracy, %")
    figure.savefig(file, dpi=120)


def pareto(members: Sequence[Any], file: Path) -> None:
    """Accuracy against weights and against latency; the line joins networks that no cheaper one beats.

    Args:
        members: anything with `topology`, `accuracy`, `parameters` and `latency_ms`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    costs = (("parameters", "weights"), ("latency_ms", "one image, ms"))
    for axes, (cost, label) in zip(figure.subplots(1, 2, sharey=True), costs, strict=True):
        ordered = sorted(members, key=lambda each: (getattr(each, cost), -each.accuracy))
        front = [each for i, each in enumerate(ordered) if all(each.accuracy > other.accuracy for other in ordered[:i])]
        axes.scatter([getattr(each, cost) for each in ordered], [100 * each.accuracy for each in ordered], s=18)
        axes.plot([getattr(each, cost) for each in front], [100 * each.accuracy for each in front], color="red", lw=1)
        for each in front:
            axes.annotate(each.topology, (getattr(each, cost), 100 * each.accuracy), fontsize=7, rotation=20)
        axes.set(xlabel=label, xscale="log")
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("test accuracy, %")
    figure.savefig(file, dpi=120)
