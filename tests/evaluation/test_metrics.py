"""Metrics agree with scikit-learn where it has them, and with arithmetic by hand where it has not."""

from __future__ import annotations

import numpy as np
import pytest

from cifake_core.errors import DatasetError
from cifake_core.evaluation import metrics


@pytest.fixture(params=[(500, 0.5), (2000, 0.9), (60, 0.5)], ids=["balanced", "mostly-real", "few"])
def answers(request: pytest.FixtureRequest, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Labels and overlapping scores with ties."""
    rows, share = request.param
    labels = (rng.random(rows) < share).astype(int)
    return labels, np.round(np.clip(rng.normal(0.3 + 0.4 * labels, 0.25), 0, 1), 2)


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8])
def test_a_report_agrees_with_scikit_learn(answers: tuple[np.ndarray, np.ndarray], threshold: float) -> None:
    from sklearn import metrics as reference

    labels, scores = answers
    said = scores >= threshold
    report = metrics.binary_report(labels, scores, threshold)
    assert report.rows == len(labels)
    assert report.accuracy == pytest.approx(reference.accuracy_score(labels, said))
    assert report.confusion == reference.confusion_matrix(labels, said, labels=[0, 1]).tolist()
    assert report.auroc == pytest.approx(reference.roc_auc_score(labels, scores))
    assert report.brier == pytest.approx(reference.brier_score_loss(labels, scores))
    assert report.false_alarm_rate == pytest.approx(1 - reference.recall_score(labels, said))
    expected = reference.precision_recall_fscore_support(labels, said, labels=[0, 1], zero_division=0)
    for index, name in enumerate(("FAKE", "REAL")):
        row = report.labels[name]
        assert (row.precision, row.recall, row.f1, row.rows) == pytest.approx([column[index] for column in expected])


def test_reliability_agrees_with_scikit_learn(rng: np.random.Generator) -> None:
    from sklearn import calibration

    scores = rng.random(3000)
    labels = (rng.random(3000) < scores**2).astype(int)
    mean, share, counts = metrics.reliability(labels, scores, bins=15)
    expected_share, expected_mean = calibration.calibration_curve(labels, scores, n_bins=15)
    full = counts > 0
    assert mean[full] == pytest.approx(expected_mean)
    assert share[full] == pytest.approx(expected_share)


def test_calibration_error_is_the_weighted_distance_from_the_diagonal() -> None:
    labels = np.array([1, 1, 1, 0, 0, 0, 0, 1])
    scores = np.array([0.9, 0.9, 0.9, 0.9, 0.1, 0.1, 0.1, 0.1])  # each bin: 3 of 4 right at a confidence of 0.9
    assert metrics.ece(labels, scores) == pytest.approx(0.15)
    assert metrics.ece(np.array([1, 0]), np.array([1.0, 0.0])) == 0


def test_one_label_alone_has_no_auroc_and_no_alarms_of_the_other() -> None:
    report = metrics.binary_report(np.zeros(10, int), np.linspace(0, 1, 10))
    assert report.auroc is None
    assert report.false_alarm_rate is None
    assert report.labels["REAL"].rows == 0


def test_nothing_to_evaluate_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(DatasetError, match="--test-rows"):
        metrics.binary_report(np.empty(0), np.empty(0))


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    held = 0
    for seed in range(300):
        low, high = metrics.bootstrap_interval((rng.random(400) < 0.9).astype(float), seed=seed)
        held += low <= 0.9 <= high
    assert 0.91 <= held / 300 <= 0.985


def test_the_interval_of_shares_is_that_of_plain_resampling(rng: np.random.Generator) -> None:
    correct = (rng.random(1000) < 0.8).astype(float)
    quick = metrics.bootstrap_interval(correct, draws=4000)
    plain = metrics.bootstrap_interval(correct, statistic=lambda drawn, axis: drawn.mean(axis), draws=4000)
    assert quick == pytest.approx(plain, abs=0.004)


def test_operating_points_keep_the_false_alarms_asked_for(rng: np.random.Generator) -> None:
    from sklearn import metrics as reference

    labels = np.repeat([0, 1], 1000)
    scores = np.clip(rng.normal(0.3 + 0.4 * labels, 0.2), 0, 1)
    strict, loose = metrics.operating_points(labels, scores, (0.01, 0.05))
    assert strict.false_alarm_rate == pytest.approx(0.01)
    assert loose.false_alarm_rate == pytest.approx(0.05)
    rates, found, _ = reference.roc_curve(1 - labels, -scores, drop_intermediate=False)
    for point in (strict, loose):
        assert point.recall == pytest.approx(found[rates <= point.asked].max(), abs=0.002)
    assert metrics.operating_points(np.ones(5), np.ones(5)) == []


def test_abstaining_more_answers_fewer_images_more_rightly(rng: np.random.Generator) -> None:
    scores = rng.random(5000)
    labels = (rng.random(5000) < scores).astype(int)
    points = metrics.abstain_points(labels, scores)
    assert [p.coverage for p in points] == pytest.approx([0.8, 0.6, 0.4, 0.2, 0.1], abs=0.03)
    assert sorted(p.accuracy for p in points) == [p.accuracy for p in points]


@pytest.mark.parametrize(("better", "worse"), [(0, 0), (5, 1), (1, 5), (40, 20), (30, 30)])
def test_mcnemar_is_the_exact_binomial_tail(better: int, worse: int) -> None:
    from scipy import stats

    expected = stats.binom.sf(better - 1, better + worse, 0.5) if better + worse else 1
    assert metrics.mcnemar(better, worse) == pytest.approx(expected)


def test_a_paired_test_tells_a_loss_from_chance(rng):
    noise = rng.normal(0, 1, 200)
    assert metrics.paired_p(noise - noise.mean()) == pytest.approx(0.5)
    assert metrics.paired_p(noise - 0.5) < 1e-4
    assert metrics.paired_p(noise + 0.5) > 0.99
    assert [metrics.paired_p(np.full(n, change)) for n, change in ((1, -0.1), (1, 0.1), (9, 0.0))] == [0, 1, 1]
