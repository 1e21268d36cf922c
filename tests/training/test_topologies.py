import numpy as np
import pytest

from cifake_core.errors import ConfigurationError
from cifake_core.training import topologies
from tests.conftest import CHECKOUT


@pytest.mark.parametrize(
    ("name", "size", "parameters"),
    [
        ("seed", 32, 159_041),
        ("bird-lotfi", 32, 141_345),
        ("conv32x2-dense64x1", 32, 141_345),
        ("conv16x1", 32, 4_545),
        ("seed", 224, 11_169_089),
        ("bird-lotfi", 224, 6_432_801),
    ],
)
def test_the_papers_networks_have_the_papers_numbers_of_weights(name, size, parameters):
    assert topologies.build(name, size).count_params() == parameters


def test_efficientnet_is_keras_own_weight_for_weight(rows):
    import keras

    theirs = keras.applications.EfficientNetB0(include_top=False, weights=None, input_shape=(32, 32, 3), pooling="avg")
    ours = topologies.build("efficientnet-b0")
    rng = np.random.default_rng(0)
    weights = [weight for weight in theirs.weights if not weight.path.startswith("normalization")]
    for weight in weights:
        if "bn" in weight.path:  # as if trained: fresh statistics would hide a misplaced normalisation
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
    ours.set_weights([np.asarray(weight) for weight in weights] + ours.get_weights()[-2:])
    features = keras.Model(ours.input, ours.get_layer("logit").input)
    pixels = rows.images[:4].astype(np.float32)
    np.testing.assert_allclose(features(pixels), theirs(pixels), rtol=1e-3, atol=1e-5)
    larger = topologies.build("efficientnet-b0", 64)
    assert [larger.get_layer(name).output.shape[1] for name in topologies.blocks(larger)] == [32, 16, 8, 4, 4, 2, 2]


@pytest.mark.parametrize("name", topologies.names())
def test_every_topology_scores_pixels_and_names_what_can_be_explained(name, rows):
    model = topologies.build(name)
    probabilities = np.asarray(model(rows.images[:4]))
    assert probabilities.shape == (4, 1)
    assert ((probabilities > 0) & (probabilities < 1)).all()
    np.testing.assert_array_equal(probabilities, np.asarray(model(rows.images[:4].astype(np.float32))))
    names = topologies.blocks(model)
    assert names == [f"block{number}" for number in range(1, len(names) + 1)]
    assert names
    assert all(len(model.get_layer(name).output.shape) == 4 for name in names)
    assert f"| `{name}` | {model.count_params():,} |" in (CHECKOUT / "docs/training.md").read_text()


def test_the_small_house_detector_starts_as_a_transform_that_loses_nothing():
    first = topologies.build("house-s").layers[2].kernel.numpy().reshape(48, 48)
    np.testing.assert_allclose(first.T @ first, np.eye(48), atol=1e-5)
    assert np.ptp(first[:, 0]) < 1e-6, "the mean of all pixels and colours comes first"
    assert np.abs(first[:, 1:].sum(axis=0)).max() < 1e-5, "nothing else sees brightness"


def test_an_unknown_topology_is_refused_with_the_known_ones():
    with pytest.raises(ConfigurationError, match=r"no topology 'vgg'; known: .*bird-lotfi.*seed"):
        topologies.build("vgg")


@pytest.mark.parametrize("name", ["conv32", "conv0x2", "conv32x2-dense64", "conv32x2-", "conv99999x1"])
def test_a_name_that_is_nearly_one_of_the_grid_is_refused(name):
    with pytest.raises(ConfigurationError, match="no topology"):
        topologies.check(name)


def test_the_grids_networks_are_the_named_ones():
    assert topologies.grid_name(32, 2, 64, 1) == "conv32x2-dense64x1"
    assert topologies.grid_name(16, 1) == "conv16x1"
    one, other = topologies.build("bird-lotfi"), topologies.build("conv32x2-dense64x1")
    assert [weight.shape for weight in one.weights] == [weight.shape for weight in other.weights]


def test_an_image_size_too_small_for_a_topology_is_refused():
    with pytest.raises(ConfigurationError, match="'seed' does not fit 8×8 images"):
        topologies.build("seed", 8)
