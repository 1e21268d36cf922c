"""Which rows are used, in which order, in which split: all by content hash and seed, never by order of arrival."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from cifake_core.errors import DataNotFoundError
from cifake_core.images import records
from cifake_core.images.sample import NAME as OFFLINE_SAMPLE
from cifake_core.settings import LABELS

T = TypeVar("T")


def ordered(table: pa.Table, seed: int) -> pa.Table:
    """Rows in the order of SHA-256(seed | content hash): a shuffle that depends on the seed and the rows alone."""
    return _sorted(table, str(seed))


def _sorted(table: pa.Table, salt: str) -> pa.Table:
    paths = pc.struct_field(table["image"], "path").to_pylist()
    keys = list(zip(_keys(records.content_hashes(table), salt), paths, table["label"].to_pylist(), strict=True))
    order = sorted(range(len(keys)), key=lambda i: (keys[i][0], keys[i][1] or "", keys[i][2]))
    return table.take(pa.array(order, pa.int64()))


def _keys(hashes: list[str], salt: str) -> list[bytes]:
    return [hashlib.sha256(f"{salt}|{content}".encode()).digest() for content in hashes]


def choose(table: pa.Table, rows: int | None, seed: int, what: str) -> pa.Table:
    """`rows` of the table's rows, balanced over label and class, drawn by content hash and seed; all when None.

    Drawn by another hash than `ordered` sorts by: the one image in four that was drawn of one label would otherwise
    come before all images of the other.

    Raises:
        DataNotFoundError: some label and class has fewer rows than its share. `what` names the table in the message.
    """
    table = _sorted(table, f"choose|{seed}")
    if rows is None:
        return table
    strata = _strata(table)
    have = Counter(strata)
    quota: dict[tuple[int, str], int] = {}
    for label, share in _shares(rows, sorted({label for label, _ in have})):
        quota |= dict(_shares(share, sorted(stratum for stratum in have if stratum[0] == label)))
    for (label, name), share in quota.items():
        if have[label, name] < share:
            raise DataNotFoundError(
                f"{what}: {rows:,} rows balanced over label and class need {share:,} {LABELS[label]} {name} images, "
                f"there are {have[label, name]:,}; ask for fewer rows"
            )
    keep = []
    for index, stratum in enumerate(strata):
        if quota[stratum]:
            quota[stratum] -= 1
            keep.append(index)
    return table.take(pa.array(keep, pa.int64()))


def _shares(total: int, names: list[T]) -> list[tuple[T, int]]:
    return [(name, total // len(names) + (index < total % len(names))) for index, name in enumerate(names)]


def groups(table: pa.Table) -> list[str]:
    """What must stay together: equal images, and crops of one photograph of the offline sample."""
    paths = pc.struct_field(table["image"], "path").to_pylist()
    return [
        path.split("/")[-2] if source == OFFLINE_SAMPLE else content
        for content, path, source in zip(records.content_hashes(table), paths, table["source"].to_pylist(), strict=True)
    ]


def without(table: pa.Table, held_out: pa.Table) -> pa.Table:
    """The table's rows whose group has no row in `held_out`."""
    taken = set(groups(held_out))
    return table.filter(pa.array([group not in taken for group in groups(table)], pa.bool_()))


def train_validation(table: pa.Table, fraction: float, seed: int) -> tuple[pa.Table, pa.Table]:
    """Split into train and validation; equal images never part, each label and class is split alike.

    Groups are walked label by label and class by class, in seeded order, and every (1/fraction)-th row's worth goes
    to validation (systematic sampling): exact to one group, however large groups are.

    Args:
        fraction: share of rows for validation, 0 ≤ fraction < 1.
    """
    members: dict[str, list[int]] = defaultdict(list)
    for index, group in enumerate(groups(table)):
        members[group].append(index)
    strata = _strata(table)
    keys = dict(zip(members, _keys(list(members), str(seed)), strict=True))
    validation = set(_systematic(sorted(members, key=lambda g: (strata[members[g][0]], keys[g])), members, fraction))
    chosen = pa.array([index in validation for index in range(table.num_rows)], pa.bool_())
    return table.filter(pc.invert(chosen)), table.filter(chosen)


def _systematic(walk: list[str], members: dict[str, list[int]], fraction: float) -> Iterator[int]:
    seen, given = 0, 0
    for group in walk:
        size = len(members[group])
        seen += size
        if given + size / 2 <= fraction * seen:
            given += size
            yield from members[group]


def _strata(table: pa.Table) -> list[tuple[int, str]]:
    return list(zip(table["label"].to_pylist(), table["class"].to_pylist(), strict=True))
