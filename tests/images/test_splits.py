from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cifake_core.errors import DataNotFoundError
from cifake_core.images import records, splits


def rows_of(table: pa.Table) -> list[bytes]:
    return records.row_hashes(table)


def test_the_order_depends_on_seed_and_rows_alone(make_table, rng):
    table = make_table(80)
    shuffled = table.take(rng.permutation(80))
    assert splits.ordered(table, 1).equals(splits.ordered(shuffled, 1))
    assert not splits.ordered(table, 1).equals(splits.ordered(table, 2))
    assert sorted(rows_of(splits.ordered(table, 1))) == sorted(rows_of(table))


def test_the_order_tells_nothing_of_the_label(make_table):
    labels = splits.ordered(make_table(1000), 0)["label"].to_numpy()
    runs = 1 + np.count_nonzero(np.diff(labels))
    assert 440 < runs < 560  # 501 expected, standard deviation 16


def test_the_order_tells_nothing_of_a_label_of_which_fewer_rows_were_chosen(make_table):
    table = make_table(4000)
    real, fake = (table.filter(pa.array([each == label for each in table["label"].to_pylist()])) for label in (1, 0))
    few = splits.choose(real, 400, 0, "collected")
    labels = splits.ordered(pa.concat_tables([few, fake.slice(0, 400)]), 0)["label"].to_numpy()
    runs = 1 + np.count_nonzero(np.diff(labels))
    assert 345 < runs < 457  # 401 expected, standard deviation 14


def test_chosen_rows_are_balanced_over_label_and_class(make_table):
    chosen = splits.choose(make_table(400), 100, 0, "train")
    counts = Counter(zip(chosen["label"].to_pylist(), chosen["class"].to_pylist(), strict=True))
    assert set(counts.values()) == {5}
    assert len(counts) == 20


def test_labels_stay_balanced_when_one_knows_fewer_classes(make_table):
    table = pa.concat_tables([make_table(200), make_table(200, ("unknown",)).slice(0, 200)])
    real_known = table.filter(
        [
            (c != "unknown") == (k == 1)
            for k, c in zip(table["label"].to_pylist(), table["class"].to_pylist(), strict=True)
        ]
    )
    chosen = splits.choose(real_known, 60, 0, "train")
    assert Counter(chosen["label"].to_pylist()) == {0: 30, 1: 30}


def test_an_odd_number_of_rows_is_shared_as_evenly_as_it_goes(make_table):
    chosen = splits.choose(make_table(400), 33, 0, "train")
    counts = Counter(zip(chosen["label"].to_pylist(), chosen["class"].to_pylist(), strict=True))
    assert chosen.num_rows == 33
    assert set(counts.values()) <= {1, 2}


def test_fewer_rows_are_a_part_of_more(make_table):
    table = make_table(400)
    few, more = splits.choose(table, 100, 7, "train"), splits.choose(table, 200, 7, "train")
    assert set(rows_of(few)) < set(rows_of(more))


def test_asking_for_more_than_there_is_says_what_is_short(make_table):
    with pytest.raises(DataNotFoundError, match=r"train: 100 rows .* need 5 FAKE airplane images, there are 2"):
        splits.choose(make_table(40), 100, 0, "train")


def test_train_and_validation_are_80_to_20_in_every_label_and_class(make_table):
    train, validation = splits.train_validation(splits.ordered(make_table(400), 0), 0.2, 0)
    for table, each in ((train, 16), (validation, 4)):
        counts = Counter(zip(table["label"].to_pylist(), table["class"].to_pylist(), strict=True))
        assert set(counts.values()) == {each}


def test_every_row_lands_in_exactly_one_split(make_table):
    table = make_table(101)
    train, validation = splits.train_validation(table, 0.3, 5)
    assert sorted(rows_of(train) + rows_of(validation)) == sorted(rows_of(table))


def test_equal_images_are_kept_and_stay_together(make_table):
    table = make_table(200)
    twice = pa.concat_tables([table, table.slice(0, 60), table.slice(0, 20)])
    for seed in range(5):
        train, validation = splits.train_validation(twice, 0.2, seed)
        assert train.num_rows + validation.num_rows == 280
        assert not set(records.content_hashes(train)) & set(records.content_hashes(validation))
        assert 54 <= validation.num_rows <= 58


def test_the_split_does_not_depend_on_the_order_of_arrival(make_table, rng):
    table = make_table(200)
    twice = pa.concat_tables([table, table.slice(0, 60)])
    shuffled = twice.take(rng.permutation(twice.num_rows))
    sets = [set(rows_of(splits.train_validation(splits.ordered(rows, 3), 0.2, 3)[1])) for rows in (twice, shuffled)]
    assert sets[0] == sets[1]


def test_another_seed_gives_another_validation_split(make_table):
    table = splits.ordered(make_table(200), 0)
    first, second = (set(rows_of(splits.train_validation(table, 0.2, seed)[1])) for seed in (1, 2))
    assert len(first & second) < 25


def test_crops_of_one_photograph_stay_together():
    from cifake_core.images.sample import PHOTOGRAPHS, OfflineSample

    table = OfflineSample().read("train", rows=400)
    train, validation = splits.train_validation(splits.ordered(table, 0), 0.2, 0)
    photographs = [set(splits.groups(rows)) for rows in (train, validation)]
    assert not photographs[0] & photographs[1]
    assert [len(p) for p in photographs] == [8, 2]
    assert len(PHOTOGRAPHS["train"]) == 10
    assert Counter(validation["label"].to_pylist())[1] == validation.num_rows / 2


def test_without_drops_what_is_held_out_whatever_its_label(make_table):
    table = make_table(40)
    held_out = records.make_table([row | {"label": 1 - row["label"]} for row in table.slice(0, 10).to_pylist()])
    assert splits.without(table, held_out).equals(table.slice(10))


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=60), fraction=st.floats(0, 0.99))
def test_the_share_is_met_to_within_half_the_largest_group(sizes, fraction):
    members, start = {}, 0
    for number, size in enumerate(sizes):
        members[str(number)] = list(range(start, start + size))
        start += size
    given_rows = list(splits._systematic(list(members), members, fraction))
    assert len(set(given_rows)) == len(given_rows)
    assert abs(len(given_rows) - fraction * start) <= max(sizes)
