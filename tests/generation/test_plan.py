from collections import Counter

import pytest

from cifake_core.errors import ConfigurationError, DatasetError
from cifake_core.generation import plan, prompts
from cifake_core.settings import CLASSES
from tests.generation.conftest import last_json

SD = "stable-diffusion-v1-4"


def rows_by(made, *names):
    rows = Counter()
    for shard in made.shards:
        rows[tuple(getattr(shard, name) for name in names)] += shard.rows
    return rows


def test_sixty_thousand_are_planned_as_in_the_paper(run):
    made = last_json(run("plan", "--count", 60_000, "--seed", 1, "--json"))
    assert made["rows"] == 60_000
    assert made["plan"].startswith("embedded-")
    again = plan.make("embedded", 50_000, 10_000, seed=1)
    assert again.name == made["plan"]
    assert rows_by(again, "side") == {("train",): 50_000, ("test",): 10_000}
    assert set(rows_by(again, "side", "object_class").values()) == {5000, 1000}
    assert max(shard.rows for shard in again.shards) <= plan.ROWS_PER_SHARD


def test_classes_and_prompts_differ_by_one_row_at_most():
    made = plan.make(SD, 1234, 77)
    for side in ("train", "test"):
        for names in (("object_class",), ("object_class", "prompt")):
            counts = [rows for (where, *_), rows in rows_by(made, "side", *names).items() if where == side]
            assert max(counts) - min(counts) <= 1
    assert made.rows == 1311
    assert list(dict.fromkeys(shard.object_class for shard in made.shards)) == list(CLASSES)


def test_equal_orders_give_equal_plans_and_any_difference_another():
    first = plan.make(SD, 60, 12, seed=3)
    assert plan.make(SD, 60, 12, seed=3, prompts=prompts.load()) == first
    others = [
        plan.make(SD, 60, 12, seed=4),
        plan.make(SD, 61, 12, seed=3),
        plan.make(SD, 60, 13, seed=3),
        plan.make("stable-diffusion-v1-4-dpm", 60, 12, seed=3),
        plan.make(SD, 60, 12, seed=3, prompts=prompts.Prompts(classes={"cat": ["a cat"]})),
    ]
    assert len({first.name, *(other.name for other in others)}) == 6


def test_every_image_has_its_own_seed_that_survives_a_larger_order():
    small, large = plan.make(SD, 90, 30, seed=0), plan.make(SD, 900, 300, seed=0)

    def seeds(made):
        return {(s.side, s.prompt, s.start + i): r.seed for s in made.shards for i, r in enumerate(made.requests(s))}

    assert len(set(seeds(large).values())) == 1200
    assert seeds(small).items() <= seeds(large).items()


def test_a_plan_comes_back_from_the_store_by_name_and_by_url(store):
    made = plan.make("embedded", 20, 10)
    url = plan.save(store, made)
    assert plan.load(store, made.name) == plan.load(store, url) == made
    assert made.shard("0") == made.shard("train-00000") == made.shards[0]


def test_errors_name_what_is_wrong(store):
    with pytest.raises(ConfigurationError, match=r"unknown generator 'dall-e'; there are embedded, .*stable-diff"):
        plan.make("dall-e", 1, 1)
    with pytest.raises(ConfigurationError, match="at least one row"):
        plan.make("embedded", 0, 0)
    with pytest.raises(ConfigurationError, match="takes no prompts"):
        plan.make("embedded", 1, 1, prompts=prompts.load())
    with pytest.raises(ConfigurationError, match=r"no plan 'x' in file:.*cifake generate plan"):
        plan.load(store, "x")
    with pytest.raises(ConfigurationError, match=r"has no shard '99'; it has 0 … 19"):
        plan.make("embedded", 10, 10).shard("99")
    store.write(f"generation/x/{plan.PLAN_FILE}", b'{"format": 2}')
    with pytest.raises(DatasetError, match=r"plan\.json: not a plan"):
        plan.load(store, "x")


@pytest.mark.parametrize("verb", [(), ("plan",)])
def test_the_command_lists_the_generators_when_it_knows_none_of_that_name(run, verb):
    done = run(*verb, "--generator", "dall-e", "--train-rows", 10)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith("sd-turbo, sdxl-turbo, stable-diffusion-3.5-medium, flux-1-schnell\n")
    assert "unknown generator 'dall-e'" in done.stderr


def test_count_and_sides_together_are_refused(run):
    done = run("plan", "--count", 12, "--test-rows", 3)
    assert done.returncode == 2
    assert "either --count or --train-rows and --test-rows" in done.stderr
