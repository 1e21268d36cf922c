import pytest

from cifake_core.errors import ConfigurationError
from cifake_core.training import topologies
from cifake_core.training.options import Options, fingerprint, options, recipes


def test_without_a_recipe_options_are_the_papers():
    chosen = options()
    assert (chosen.topology, chosen.epochs, chosen.optimizer, chosen.learning_rate) == ("seed", 5, "adam", 0.001)
    assert not chosen.augmentation.active


@pytest.mark.parametrize("name", recipes())
def test_every_recipe_that_ships_names_a_topology_and_changes_images(name):
    chosen = options(name)
    assert chosen.topology in topologies.names()
    assert chosen.augmentation.active


def test_the_house_detectors_keep_their_size():
    assert topologies.build(options("house-s").topology).count_params() <= 300_000
    assert topologies.build(options("house-m").topology).count_params() <= 1_200_000


def test_what_is_given_beside_a_recipe_wins():
    chosen = options("house-s", epochs=1, seed=4)
    assert (chosen.epochs, chosen.seed) == (1, 4)
    assert chosen.model_copy(update={"epochs": 30, "seed": 0}) == options("house-s", epochs=30)


def test_a_recipe_may_be_a_file_of_ones_own(tmp_path):
    (tmp_path / "mine.yaml").write_text("topology: bird-lotfi\naugmentation: {flip: 0.5}\n")
    chosen = options(str(tmp_path / "mine.yaml"))
    assert (chosen.topology, chosen.augmentation.flip) == ("bird-lotfi", 0.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("topolgy: seed", "topolgy: Extra inputs are not permitted"),
        ("augmentation: {flip: 2}", r"augmentation.flip: Input should be less than or equal to 1"),
        ("augmentation: {damages: {melt: [1, 2]}}", r"augmentation.damages.melt.*: Input should be 'jpeg'"),
        ("augmentation: {damages: {blur: [3, 1]}}", "augmentation.damages: Value error, blur: give a smallest"),
        ("augmentation: {damages: {rescale: [0.001, 0.5]}}", "rescale: give a smallest and a largest amount from 0.1"),
        ("learning_rate: .inf", "learning_rate: Input should be a finite number"),
        ("1: 2", "Keys should be strings"),
        ("- seed", "a recipe is a table of options"),
        ("a: [", "not a readable YAML file"),
    ],
)
def test_a_wrong_recipe_is_refused_with_what_is_wrong(tmp_path, text, message):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ConfigurationError, match=message):
        options(str(tmp_path / "mine.yaml"))


def test_an_unknown_recipe_is_refused_with_the_known_ones():
    with pytest.raises(ConfigurationError, match="no recipe 'house-xl'; known: harden, house-m, house-s, zoo"):
        options("house-xl")


def test_a_training_is_named_by_options_dataset_and_tracking_server():
    chosen = Options(topology="bird-lotfi")
    names = {
        fingerprint(chosen, "v1", "sqlite:///a"),
        fingerprint(chosen, "v2", "sqlite:///a"),
        fingerprint(chosen, "v1", "sqlite:///b"),
        fingerprint(chosen.model_copy(update={"epochs": 4}), "v1", "sqlite:///a"),
        fingerprint(Options(topology="bird-lotfi", augmentation={"flip": 0.5}), "v1", "sqlite:///a"),
    }
    assert len(names) == 5
    assert fingerprint(chosen.model_copy(), "v1", "sqlite:///a") in names
