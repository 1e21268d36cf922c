import numpy as np
import pytest

from cifake_core.training import topologies
from cifake_core.training.augmentation import Augmentation
from cifake_core.training.epochs import Arrays, Group
from cifake_core.training.fit import CHECKPOINT, fit
from cifake_core.training.options import Options

OPTIONS = Options(topology="bird-lotfi", epochs=3, batch_size=8, seed=3)


def same_weights(one, other) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one.get_weights(), other.get_weights(), strict=True))


def without_time(history: list[dict]) -> list[dict]:
    return [{name: value for name, value in epoch.items() if name != "seconds"} for epoch in history]


@pytest.fixture(scope="module")
def whole(rows):
    return fit(OPTIONS, rows, rows)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(rows, whole):
    again, other = fit(OPTIONS, rows, rows), fit(OPTIONS.model_copy(update={"seed": 4}), rows, rows)
    assert same_weights(whole.model, again.model)
    assert without_time(whole.history) == without_time(again.history)
    assert not same_weights(whole.model, other.model)


@pytest.mark.parametrize("after", [1, 2])
def test_an_interrupted_training_continues_to_the_same_weights(rows, whole, tmp_path, after):
    def interrupt(history):
        if len(history) == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(OPTIONS, rows, rows, folder=tmp_path, on_epoch=interrupt)
    epochs = []
    continued = fit(OPTIONS, rows, rows, folder=tmp_path, on_epoch=lambda history: epochs.append(len(history)))
    assert epochs == list(range(after + 1, 4))
    assert same_weights(whole.model, continued.model)
    assert without_time(whole.history) == without_time(continued.history)
    assert [file.name for file in tmp_path.iterdir()] == [CHECKPOINT]


def test_a_history_has_every_figure_of_both_splits_per_epoch(rows, whole):
    names = {"loss", "accuracy", "precision", "recall", "f1"}
    assert len(whole.history) == 3
    for epoch in whole.history:
        assert epoch.keys() == names | {f"val_{name}" for name in names} | {"seconds"}
        assert all(0 <= epoch[name] <= 1 for name in epoch if name.removeprefix("val_") in names - {"loss"})


def test_figures_of_validation_are_of_the_positive_label_real(rows, whole):
    answers = whole.model(rows.images).numpy()[:, 0] > 0.5
    last = whole.history[-1]
    assert last["val_accuracy"] == pytest.approx((answers == rows.labels).mean())
    assert last["val_recall"] == pytest.approx(answers[rows.labels == 1].mean())


def test_training_learns_what_can_be_learnt():
    rng = np.random.default_rng(0)
    labels = np.arange(256) % 2
    images = rng.integers(0, 128, (256, 32, 32, 3), np.uint8)
    images[labels == 1] += 100
    learnt = fit(Options(topology="bird-lotfi", epochs=4, batch_size=16), Arrays(images, labels))
    assert learnt.history[-1]["accuracy"] > 0.95


def test_what_an_epoch_shows_more_often_weighs_more(rows):
    fake, real = (np.flatnonzero(rows.labels == label) for label in (0, 1))
    with_more = Arrays(rows.images, rows.labels, (Group(fake, 3 * len(fake)), Group(real, len(real))))
    once = Options(topology="bird-lotfi", epochs=1, batch_size=8)
    learnt, without = fit(once, with_more), fit(once, rows)
    assert learnt.model.optimizer.iterations.numpy() == 2 * without.model.optimizer.iterations.numpy()
    assert learnt.model(rows.images).numpy().mean() < without.model(rows.images).numpy().mean()


def test_a_training_goes_on_from_another_networks_weights(rows, whole):
    still = OPTIONS.model_copy(update={"epochs": 1, "learning_rate": 1e-12})
    assert np.allclose(
        fit(still, rows, starts=[whole.model]).model(rows.images), whole.model(rows.images), atol=1e-5, rtol=0
    )


def test_without_epochs_a_training_is_the_mean_of_the_weights_it_starts_from(rows, whole):
    other = fit(OPTIONS.model_copy(update={"epochs": 1}), rows).model
    mean = OPTIONS.model_copy(update={"epochs": 0, "schedule": "one-cycle", "average": 0.9})
    found = fit(mean, rows, starts=[whole.model, other])
    assert found.history == []
    for weights, one, two in zip(*(m.get_weights() for m in (found.model, whole.model, other)), strict=True):
        np.testing.assert_allclose(weights, (one + two) / 2, atol=1e-6)


def test_a_taught_network_learns_its_teachers_mean_answer_and_is_measured_by_labels(rows, whole, tmp_path):
    import keras

    contrary = Arrays(rows.images, 1 - rows.labels)
    teachers = [whole.model, fit(OPTIONS.model_copy(update={"seed": 4, "epochs": 1}), rows).model]
    long = OPTIONS.model_copy(update={"epochs": 20, "augmentation": Augmentation(flip=0.5)})
    taught = fit(long, contrary, contrary, teachers=teachers, folder=tmp_path)
    wanted = np.mean([teacher(rows.images) for teacher in teachers], 0)
    answers = taught.model(rows.images).numpy()
    assert np.abs(answers - wanted).mean() < 0.05 < np.abs(answers - contrary.labels[:, None]).mean()
    last = taught.history[-1]
    assert last["val_accuracy"] == pytest.approx(((answers[:, 0] > 0.5) == contrary.labels).mean())
    assert abs(last["accuracy"] - last["val_accuracy"]) < 0.1
    taught.model.save(tmp_path / "taught.keras")
    assert keras.saving.load_model(tmp_path / "taught.keras").compiled


def test_where_images_are_mixed_each_half_tells_its_label():
    rng = np.random.default_rng(0)
    labels = np.arange(256) % 2
    images = rng.integers(0, 128, (256, 32, 32, 3), np.uint8)
    images[labels == 1] += 100
    plan = Options(topology="bird-lotfi", epochs=8, batch_size=16, augmentation=Augmentation(cutmix=0.8))
    learnt = fit(plan, Arrays(images, labels), Arrays(images, labels))
    halves = np.concatenate([images[0::2, :, :16], images[1::2, :, 16:]], 2)
    unsure = learnt.model(halves).numpy()
    assert np.mean((unsure > 0.2) & (unsure < 0.8)) > 0.7
    assert learnt.history[-1]["val_accuracy"] > 0.95
    assert learnt.history[-1]["accuracy"] > 0.7


def test_a_network_at_224_pixels_takes_the_same_images(rows):
    learnt = fit(
        Options(topology="bird-lotfi", epochs=1, batch_size=8, image_size=224), Arrays(rows.images[:8], rows.labels[:8])
    )
    assert learnt.model.count_params() == 6_432_801
    assert learnt.model(rows.images[:2]).shape == (2, 1)


RECIPE = Options(
    topology="small",
    epochs=3,
    batch_size=12,
    optimizer="adamw",
    weight_decay=0.1,
    schedule="one-cycle",
    average=0.9,
    augmentation={"flip": 0.5, "shift": 2, "damage": 0.5, "damages": {"noise": (0.01, 0.1)}},
)


@pytest.fixture
def small(monkeypatch):
    """A topology with what makes continuing hard: batch statistics and random layers."""
    from keras import layers

    def body(x):
        x = layers.BatchNormalization()(layers.Conv2D(4, 3, strides=2, name="block1")(x))
        return layers.Dropout(0.3)(layers.Flatten()(layers.ReLU()(x)))

    monkeypatch.setitem(topologies._TOPOLOGIES, "small", body)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_recipe_with_everything_continues_to_the_same_weights(rows, small, tmp_path, optimizer):
    def interrupt(history):
        if len(history) == 2:
            raise KeyboardInterrupt

    recipe = RECIPE.model_copy(update={"optimizer": optimizer})
    whole = fit(recipe, rows, rows)
    with pytest.raises(KeyboardInterrupt):
        fit(recipe, rows, rows, folder=tmp_path, on_epoch=interrupt)
    continued = fit(recipe, rows, rows, folder=tmp_path)
    again = fit(recipe, rows, rows, folder=tmp_path)
    for other in (continued, again):
        assert same_weights(whole.model, other.model)
        assert without_time(whole.history) == without_time(other.history)


def test_the_average_is_what_is_validated_and_returned(rows, small):
    averaged, plain = fit(RECIPE, rows, rows), fit(RECIPE.model_copy(update={"average": 0}), rows, rows)
    assert [epoch["loss"] for epoch in averaged.history] == [epoch["loss"] for epoch in plain.history]
    assert not same_weights(averaged.model, plain.model)
    for fitted in (averaged, plain):
        answers = fitted.model(rows.images).numpy()[:, 0] > 0.5
        assert fitted.history[-1]["val_accuracy"] == pytest.approx((answers == rows.labels).mean())


def test_one_cycle_ends_with_a_vanishing_rate(rows, small):
    optimizer = fit(RECIPE, rows).model.optimizer
    assert float(optimizer.learning_rate) < 1e-6
