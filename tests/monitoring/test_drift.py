import numpy as np
import pytest
from pydantic import ValidationError

from cifake_core.monitoring import drift


def counts(values, histogram):
    return drift.count(values, histogram.edges)


def test_equal_samples_do_not_drift(rng):
    reference = drift.reference_histogram(rng.normal(size=5000))
    assert drift.psi(reference.counts, reference.counts) == 0
    assert drift.ks(reference.counts, reference.counts) == 0


def test_a_fresh_sample_of_the_same_distribution_stays_under_the_customary_threshold(rng):
    reference = drift.reference_histogram(rng.normal(size=5000))
    assert all(drift.psi(reference.counts, counts(rng.normal(size=300), reference)) < 0.25 for _ in range(50))


def test_a_shift_of_one_deviation_is_seen(rng):
    reference = drift.reference_histogram(rng.normal(size=5000))
    assert drift.psi(reference.counts, counts(rng.normal(1, 1, 300), reference)) > 0.5


def test_ks_of_histograms_bounds_that_of_the_samples_from_below(rng):
    from scipy.stats import ks_2samp

    a, b = rng.normal(size=2000), rng.normal(0.4, 1, 2000)
    reference = drift.reference_histogram(a, bins=200)
    exact = ks_2samp(a, b).statistic
    assert exact - 0.01 < drift.ks(reference.counts, counts(b, reference)) <= exact + 1e-9


def test_every_value_is_counted_once_however_far_out(rng):
    reference = drift.reference_histogram(rng.normal(size=100))
    assert counts(np.array([-1e9, 0.0, 1e9]), reference).sum() == 3


def test_constant_feature_still_has_a_profile():
    reference = drift.reference_histogram(np.ones(50))
    assert reference.total == 50


@pytest.mark.parametrize("values", [np.array([]), np.array([1.0, np.nan])])
def test_reference_of_nothing_or_of_nan_is_refused(values):
    with pytest.raises(ValueError, match="finite"):
        drift.reference_histogram(values)


def test_profile_with_mismatched_bins_is_refused():
    with pytest.raises(ValidationError, match="inner edges"):
        drift.Histogram(edges=[0.0], counts=[1, 2, 3])
