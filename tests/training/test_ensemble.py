"""Networks side by side: one network that answers by their mean, and is trained, kept and explained like any other."""

import numpy as np
import pytest

from cifake_core.bundle import Detector
from cifake_core.errors import ConfigurationError
from cifake_core.training import export, topologies


@pytest.fixture(scope="module")
def members():
    import keras

    keras.utils.set_random_seed(0)
    return [topologies.build(name) for name in ("house-xs", "house-m")]


def outputs(model, layer: str, images: np.ndarray) -> np.ndarray:
    import keras

    return np.asarray(keras.Model(model.input, model.get_layer(layer).output)(images.astype(np.float32)))


def test_its_logit_is_the_mean_and_its_blocks_are_the_members_last_at_each_resolution(members, rows):
    from cifake_core.training import ensemble

    images = rows.images[:4]
    both = ensemble.of(members)
    assert both.count_params() == sum(member.count_params() for member in members)
    want = np.mean([outputs(member, "logit", images) for member in members], 0)
    np.testing.assert_allclose(outputs(both, "logit", images), want, atol=1e-5)
    assert topologies.blocks(both) == ["block1", "block2"]
    for name, theirs in ("block1", ("block1", "block1")), ("block2", ("block2", "block3")):
        pairs = zip(members, theirs, strict=True)
        want = np.concatenate([outputs(member, block, images) for member, block in pairs], -1)
        np.testing.assert_allclose(outputs(both, name, images), want, rtol=1e-4, atol=1e-5)


def test_it_is_saved_and_exported_and_each_members_gradients_are_its_own_by_their_number(members, rows, tmp_path):
    import keras

    from cifake_core.training import ensemble

    both = ensemble.of(members)
    both.save(tmp_path / "both.h5", include_optimizer=False)
    kept = keras.saving.load_model(tmp_path / "both.h5", compile=False)
    export.export(kept, tmp_path / "both", rows.images, topology="house-xs+house-m", dataset_version="0" * 16)
    found = Detector(tmp_path / "both").explain(rows.images[:4])
    start = 0
    for member, block in zip(members, ("block2", "block3"), strict=True):
        want = export.keras_outputs(member, rows.images[:4])[f"gradients_{block}"] / len(members)
        stop = start + want.shape[-1]
        np.testing.assert_allclose(found.gradients["block2"][..., start:stop], want, atol=1e-4 * np.abs(want).max())
        start = stop


def test_its_name_builds_one_of_the_same_shape(members, rows):
    from cifake_core.training import ensemble

    both = ensemble.of(members)
    built = topologies.build("house-xs+house-m")
    built.set_weights(both.get_weights())
    np.testing.assert_allclose(outputs(built, "logit", rows.images), outputs(both, "logit", rows.images), atol=1e-5)


def test_networks_whose_blocks_differ_in_resolution_are_refused():
    with pytest.raises(ConfigurationError, match=r"blocks of the same resolutions \(house_xs: .*, bird_lotfi: "):
        topologies.build("house-xs+bird-lotfi")


@pytest.mark.parametrize("name", ["house-xs+", "+", "house-xs+vgg"])
def test_a_part_that_is_no_topology_is_refused(name):
    with pytest.raises(ConfigurationError, match="no topology"):
        topologies.check(name)
