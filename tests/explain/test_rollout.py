"""Attention rollout against its formula, and the cases whose answer is known."""

from __future__ import annotations

import numpy as np

from cifake_core.explain.rollout import rollout


def _softmax(logits: np.ndarray, axis: int) -> np.ndarray:
    powers = np.exp(logits)
    return (powers / powers.sum(axis, keepdims=True)).astype(np.float32)


def test_rollout_follows_its_formula(rng: np.random.Generator) -> None:
    layers = [_softmax(rng.normal(size=(2, 3, 4, 4)), -1) for _ in range(3)]
    pooling = _softmax(rng.normal(size=(2, 4, 1)), 1)
    maps = rollout([*layers, pooling])
    assert maps.shape == (2, 2, 2)
    for n in range(2):
        joint = np.eye(4)
        for weights in layers:
            joint = (weights[n].mean(0) / 2 + np.eye(4) / 2) @ joint
        np.testing.assert_allclose(maps[n].ravel(), pooling[n, :, 0] @ joint, atol=1e-6)
    np.testing.assert_allclose(maps.sum((1, 2)), 1, atol=1e-6)


def test_tokens_that_attend_to_themselves_leave_the_poolings_shares(rng: np.random.Generator) -> None:
    pooling = _softmax(rng.normal(size=(1, 9, 1)), 1)
    itself = np.eye(9, dtype=np.float32)[None, None]
    np.testing.assert_allclose(rollout([itself, itself, pooling]).ravel(), pooling.ravel(), atol=1e-7)


def test_a_token_that_all_attend_to_gets_more_with_every_layer() -> None:
    everywhere = np.full((1, 16, 1), 1 / 16, np.float32)
    fifth = np.zeros((1, 2, 16, 16), np.float32)
    fifth[..., 5] = 1
    found = rollout([fifth, fifth, everywhere])
    assert np.unravel_index(found[0].argmax(), (4, 4)) == (1, 1)
    np.testing.assert_allclose(found[0, 1, 1], 1 - 1 / 4 + 1 / 4 / 16)
