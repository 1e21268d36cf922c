import keras
import numpy as np
import pytest

from cifake_core.training.muon import Muon

RATE, SCALE = 0.01, 0.2


def variable(shape, path="conv2d/kernel"):
    layer, name = path.split("/")
    with keras.name_scope(layer):
        return keras.Variable(np.ones(shape, np.float32), name=name)


def stepped(shape, path="conv2d/kernel", **given) -> tuple[np.ndarray, np.ndarray]:
    """A gradient, and what one step of it changes."""
    weight = variable(shape, path)
    gradient = np.random.default_rng(0).normal(size=shape).astype(np.float32) * 7
    optimizer = Muon(RATE, adam_weight_decay=None, **{"weight_decay": None} | given)
    optimizer.build([weight])
    optimizer.apply([keras.ops.convert_to_tensor(gradient)])
    return gradient, weight.numpy() - 1


@pytest.mark.parametrize("shape", [(3, 3, 4, 8), (1, 1, 24, 6), (12, 5)])
def test_a_kernels_step_keeps_the_gradients_directions_and_levels_their_sizes(shape):
    gradient, change = (found.reshape(-1, shape[-1]) for found in stepped(shape))
    left, sizes, right = np.linalg.svd(gradient, full_matrices=False)
    leveled = -left.T @ change @ right.T / (RATE * SCALE * np.sqrt(max(gradient.shape)))
    assert np.ptp(sizes) > 0.3 * sizes.max()
    np.testing.assert_allclose(np.diag(leveled), 1, atol=0.35)  # as near as five iterations come
    np.testing.assert_allclose(leveled - np.diag(np.diag(leveled)), 0, atol=1e-3)


@pytest.mark.parametrize(("shape", "path"), [((5,), "batch_normalization/gamma"), ((8, 1), "logit/kernel")])
def test_vectors_and_the_last_layer_are_left_to_adam(shape, path):
    gradient, change = stepped(shape, path)
    np.testing.assert_allclose(change, -RATE * np.sign(gradient), rtol=1e-3)


def test_only_kernels_decay():
    without, decayed = (stepped((3, 3, 4, 8), weight_decay=decay)[1] for decay in (None, 0.1))
    np.testing.assert_allclose(decayed - without, -RATE * 0.1, atol=1e-6)
    np.testing.assert_array_equal(*(stepped((5,), "a/bias", weight_decay=decay)[1] for decay in (None, 0.1)))
