"""No false alarms, and the offline sample passes."""

from __future__ import annotations

import pytest

from cifake_core.images import dataset

TRUE_OF_CIFAKE = {  # as published: greyscale is FAKE's, file names tell the label, FAKE holds 920 pairs of equal images
    "shortcuts.greyscale_tells_little",
    "shortcuts.name_tells_nothing",
    "splits.exact_duplicates_rare",
    "splits.greyscale_alike",
}
TRUE_OF_THE_SAMPLE = {"shortcuts.offline_sample_is_easy"}


@pytest.mark.parametrize("seed", range(5))
def test_clean_data_raises_no_false_alarm(clean, write, run, caught, seed):
    result = run(write(clean(seed)))
    assert result.success
    assert not result.quarantined
    assert caught(result) <= TRUE_OF_CIFAKE | TRUE_OF_THE_SAMPLE


def test_offline_sample_of_a_demo_passes(store, run, monkeypatch):
    from cifake_core.images import assemble
    from cifake_core.images.sample import OfflineSample

    monkeypatch.setattr(assemble, "resolve", OfflineSample)
    manifest = assemble.build(store, train_rows=2000, test_rows=400)
    assert manifest.sources == {"offline-sample": 2400}
    result = run(manifest)
    assert result.success
    assert dataset.load(store, result.dataset_version).notes
