from cifake_core.images import dataset


def test_the_shared_dataset_maker_gives_balanced_splits(store, make_dataset):
    manifest = make_dataset(store)
    assert manifest.counts["test"] == {"FAKE": 50, "REAL": 50}
    assert sum(manifest.counts["train"].values()) + sum(manifest.counts["validation"].values()) == 200
    for split in dataset.SPLITS:
        images, labels = dataset.arrays(store, manifest, split)
        assert images.shape == (len(labels), 32, 32, 3)
    assert make_dataset(store) == manifest
