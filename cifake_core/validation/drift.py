"""Drift between two dataset versions: how far each feature's distribution has moved, label by label."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cifake_core.monitoring.drift import count, psi, reference_histogram
from cifake_core.settings import LABELS

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("feature", "label", "rows", "reference_rows", "psi", "ks", "p_value")
FEATURES = (
    *("mean_r", "mean_g", "mean_b", "std_r", "std_g", "std_b", "brightness", "contrast", "colourfulness", "entropy"),
    *("edge_energy", "high_frequency", "blockiness", "file_bytes"),
)


def measure(images: pd.DataFrame, reference: pd.DataFrame) -> pd.DataFrame:
    """PSI and two-sample Kolmogorov–Smirnov statistic per feature and label, COLUMNS.

    PSI below 0.1 is no change, above 0.25 a large one by the usual convention.
    `p_value` is the KS test's, without correction for the number of features.
    """
    import pandas as pd
    from scipy.stats import ks_2samp

    rows = []
    for label in LABELS:
        now, then = (f[f["decodes"] & (f["label"] == label)] for f in (images, reference))
        if now.empty or then.empty:
            continue
        for feature in FEATURES:
            a, b = now[feature].to_numpy(float), then[feature].to_numpy(float)
            histogram, test = reference_histogram(b), ks_2samp(a, b, method="asymp")
            rows.append(
                {
                    "feature": feature,
                    "label": label,
                    "rows": len(a),
                    "reference_rows": len(b),
                    "psi": psi(histogram.counts, count(a, histogram.edges)),
                    "ks": float(test.statistic),
                    "p_value": float(test.pvalue),
                }
            )
    return pd.DataFrame(rows, columns=list(COLUMNS))
