"""Pictures of a training, as PNG files."""

from __future__ import annotations

from pathlib import Path

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
