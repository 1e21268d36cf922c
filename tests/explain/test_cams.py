"""The Grad-CAM family: against its formulas, its invariants, and a model with other weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cifake_core.bundle import Detector
from cifake_core.explain import cams, explainer, overlay, upsampling
from tests.tiny_bundle import write_tiny_bundle


@pytest.fixture(scope="module")
def detectors(tmp_path_factory: pytest.TempPathFactory) -> list[Detector]:
    folder: Path = tmp_path_factory.mktemp("bundles")
    return [Detector(write_tiny_bundle(folder / str(seed), seed), threads=1) for seed in (0, 1)]


@pytest.fixture(scope="module")
def attentive(tmp_path_factory: pytest.TempPathFactory) -> list[Detector]:
    """Two models with attention: every method can explain them."""
    folder: Path = tmp_path_factory.mktemp("attentive")
    return [Detector(write_tiny_bundle(folder / str(seed), seed, attention=True), threads=1) for seed in (0, 1)]


@pytest.fixture
def images(rng: np.random.Generator) -> np.ndarray:
    coarse = rng.integers(0, 256, (6, 8, 8, 3)).astype(np.uint8)
    return coarse.repeat(4, 1).repeat(4, 2)


@pytest.mark.parametrize("method", explainer.METHODS)
@pytest.mark.parametrize("blocks", [["block1"], ["block2"], ["block1", "block2"]])
@pytest.mark.parametrize("count", [1, 3])
def test_every_method_gives_maps_of_the_image_between_0_and_1(
    attentive: list[Detector], images: np.ndarray, method: str, blocks: list[str], count: int
) -> None:
    maps = explainer.heatmaps(attentive[0], images[:count], method=method, blocks=blocks, target=np.ones(count, int))
    assert maps.shape == (count, 32, 32)
    assert maps.dtype == np.float32
    assert np.isfinite(maps).all()
    assert maps.min() >= 0
    assert maps.max() <= 1


@pytest.mark.parametrize("method", explainer.METHODS)
def test_a_batch_gives_what_its_images_give_alone(attentive: list[Detector], images: np.ndarray, method: str) -> None:
    target = np.array([1, 0, 1])
    options = {"method": method, "blocks": ["block2"]}
    together = explainer.heatmaps(attentive[0], images[:3], target=target, **options)
    for k in range(3):
        alone = explainer.heatmaps(attentive[0], images[k : k + 1], target=target[k : k + 1], **options)
        np.testing.assert_allclose(together[k], alone[0], atol=1e-4)


def _random(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    activations = np.maximum(rng.normal(size=(2, 5, 4, 3)), 0).astype(np.float32)
    return activations, rng.normal(size=(2, 5, 4, 3)).astype(np.float32)


def test_gradcam_follows_its_formula(rng: np.random.Generator) -> None:
    a, g = _random(rng)
    for n in range(2):
        weights = [g[n, :, :, k].mean() for k in range(3)]
        expected = np.maximum(sum(w * a[n, :, :, k] for k, w in enumerate(weights)), 0)
        np.testing.assert_allclose(cams.gradcam(a, g)[n], expected, atol=1e-6)


def test_gradcam_plus_plus_follows_its_formula(rng: np.random.Generator) -> None:
    a, g = _random(rng)
    expected = np.zeros((5, 4))
    for k in range(3):
        weight = 0.0
        for y in range(5):
            for x in range(4):
                d = g[0, y, x, k]
                weight += d**2 / (2 * d**2 + a[0, :, :, k].sum() * d**3) * max(d, 0)
        expected += weight * a[0, :, :, k]
    np.testing.assert_allclose(cams.gradcam_plus_plus(a, g)[0], np.maximum(expected, 0), rtol=1e-4, atol=1e-5)


def test_gradcam_is_hirescam_where_gradients_are_constant(rng: np.random.Generator) -> None:
    a, g = _random(rng)
    flat = np.broadcast_to(g.mean((1, 2), keepdims=True), a.shape)
    np.testing.assert_allclose(cams.gradcam(a, flat), cams.hirescam(a, flat), atol=1e-5)
    np.testing.assert_allclose(cams.xgradcam(a, flat), cams.hirescam(a, flat), atol=1e-5)


def test_hirescam_of_the_whole_logit_adds_up_to_it(detectors: list[Detector], images: np.ndarray) -> None:
    # The tiny net has no biases, so activation times gradient sums to the logit exactly.
    out = detectors[0].explain(images)
    signed = (out.activations["block1"] * out.gradients["block1"]).sum((1, 2, 3))
    np.testing.assert_allclose(signed, out.logits, atol=1e-4)


def test_eigencam_finds_the_pattern_the_channels_share() -> None:
    pattern = np.zeros((6, 6), np.float32)
    pattern[1:3, 2:5] = 1
    activations = (pattern[..., None] * np.array([1, 2, 3], np.float32))[None]
    found = cams.normalise(cams.eigencam(activations, activations))[0]
    np.testing.assert_array_equal(found > 0.5, pattern > 0.5)


WITHOUT_TARGET = ("eigencam", "smooth-eigencam", "attention-rollout")


@pytest.mark.parametrize("method", [m for m in explainer.METHODS if m not in WITHOUT_TARGET])
def test_a_map_changes_with_the_target_and_with_random_weights(
    detectors: list[Detector], images: np.ndarray, method: str
) -> None:
    """The sanity check of Adebayo et al. 2018, https://arxiv.org/abs/1810.03292: maps must depend on the weights."""
    options = {"method": method, "blocks": ["block2"]}
    real = explainer.heatmaps(detectors[0], images, target=np.ones(6, int), **options)
    fake = explainer.heatmaps(detectors[0], images, target=np.zeros(6, int), **options)
    other = explainer.heatmaps(detectors[1], images, target=np.ones(6, int), **options)
    assert np.abs(real - other).mean() > 0.05
    # Grad-CAM++ counts positive gradients only and tells the labels less apart than the others do.
    assert np.abs(real - fake).mean() > 0.02


@pytest.mark.parametrize("method", WITHOUT_TARGET)
def test_a_map_without_target_changes_with_random_weights(
    attentive: list[Detector], images: np.ndarray, method: str
) -> None:
    options = {"method": method, "blocks": ["block2"]}
    real, other = (explainer.heatmaps(model, images, target=np.ones(6, int), **options) for model in attentive)
    np.testing.assert_array_equal(real, explainer.heatmaps(attentive[0], images, target=np.zeros(6, int), **options))
    assert np.abs(real - other).mean() > 0.05


def test_a_caption_says_what_the_map_shows() -> None:
    assert explainer.caption("FAKE", 0.25, "gradcam", ["block1", "block2"], "FAKE") == (
        "FAKE, P(REAL) 0.250. gradcam at block1+block2: what speaks for FAKE"
    )
    assert explainer.caption("FAKE", 0.25, "attention-rollout", ["block2"], "FAKE") == (
        "FAKE, P(REAL) 0.250. attention-rollout: where attention leads, for either label"
    )


def test_an_unknown_method_is_refused(detectors: list[Detector]) -> None:
    with pytest.raises(ValueError, match="no method 'lime'; there are gradcam, "):
        explainer.check(detectors[0], "lime")


def test_a_model_without_attention_has_no_rollout(detectors: list[Detector], images: np.ndarray) -> None:
    assert explainer.methods(detectors[0]) == [m for m in explainer.METHODS if m != "attention-rollout"]
    with pytest.raises(ValueError, match="attention-rollout follows a transformer's attention, and this model has"):
        explainer.heatmaps(detectors[0], images, method="attention-rollout", blocks=["block2"], target=np.ones(6, int))


def test_occlusion_finds_the_only_patch_that_matters() -> None:
    def score(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        logits = images[:, 8:16, 16:24].astype(np.float32).mean((1, 2, 3))
        return logits, logits

    image = np.zeros((1, 32, 32, 3), np.uint8)
    image[:, 8:16, 16:24] = 255
    from cifake_core.explain.perturbation import occlusion

    found = occlusion(score, image, np.ones(1, np.float32))[0]
    y, x = np.unravel_index(found.argmax(), found.shape)
    assert 8 <= y < 16
    assert 16 <= x < 24
    assert found[:4].max() == 0


def test_resize_keeps_a_map_in_place() -> None:
    maps = np.zeros((1, 4, 4), np.float32)
    maps[0, 1, 2] = 1
    large = cams.resize(maps, 32)[0]
    assert large.shape == (32, 32)
    y, x = np.unravel_index(large.argmax(), large.shape)
    assert (y // 8, x // 8) == (1, 2)
    np.testing.assert_array_equal(cams.resize(maps, 4), maps)


def test_a_flat_map_is_all_zero() -> None:
    assert not cams.normalise(np.full((1, 3, 3), 7, np.float32)).any()


def test_guided_upsampling_keeps_to_the_images_edge() -> None:
    image = np.zeros((1, 32, 32, 3), np.uint8)
    image[:, :, 16:] = 255
    blurred = cams.resize(np.array([[[0, 0, 1, 1]]], np.float32).repeat(4, 1), 32)
    sharp = upsampling.guided(blurred, image)
    step = sharp[0, 16, 17] - sharp[0, 16, 14]
    assert step > blurred[0, 16, 17] - blurred[0, 16, 14]


def test_unknown_blocks_are_named() -> None:
    assert explainer.choose_blocks(["block1", "block2"]) == ["block2"]
    assert explainer.choose_blocks(["block1", "block2"], "all") == ["block1", "block2"]
    assert explainer.choose_blocks(["block1", "block2"], "block2,block2") == ["block2"]
    with pytest.raises(ValueError, match="no block 'x'; this model has block1, block2"):
        explainer.choose_blocks(["block1", "block2"], "block1,x")


def test_alpha_goes_from_the_image_to_the_heatmap(images: np.ndarray) -> None:
    colours = overlay.colorize(np.linspace(0, 1, 32 * 32).reshape(32, 32))
    np.testing.assert_array_equal(overlay.blend(images[0], colours, 0), images[0])
    np.testing.assert_array_equal(overlay.blend(images[0], colours, 1), colours)


@pytest.mark.parametrize("name", [n for n in overlay.COLORMAPS if n != "gray"])
def test_colormaps_are_matplotlibs(name: str) -> None:
    import matplotlib

    values = np.linspace(0, 1, 256)
    expected = matplotlib.colormaps[name](values)[:, :3] * 255
    assert np.abs(overlay.colorize(values[None], name)[0] - expected).max() < 25
