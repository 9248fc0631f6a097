"""In which order the rows of a training come, so that trainings without some of them can be held against each other.

Shuffled passes over all rows, drawn by the seed alone; rows that are left out are skipped. Trainings of one seed thus
meet the rows that they share in the same order, and differ by the rows that are left out, not by luck of the shuffle.
"""

from __future__ import annotations

from collections.abc import Collection

import torch

from ..errors import ConfigError, describe


def rows_left(rows: int, left_out: Collection[int]) -> list[int]:
    """The places of all `rows` less `left_out`, rising. Raises `ConfigError` where no row is left."""
    left = sorted(set(range(rows)) - set(left_out))
    if not left:
        raise ConfigError(describe("training", "no row left", "at least one", "flag fewer rows"))
    return left


def training_order(rows: int, left_out: Collection[int], seed: int, count: int) -> list[int]:
    """The first `count` places of so many passes as that takes, over all of `rows` less `left_out`.

    No global random state is used. Raises `ConfigError` where no row is left.
    """
    left, generator = set(rows_left(rows, left_out)), torch.Generator().manual_seed(seed)
    order: list[int] = []
    while len(order) < count:
        order += [i for i in torch.randperm(rows, generator=generator).tolist() if i in left]
    return order[:count]
