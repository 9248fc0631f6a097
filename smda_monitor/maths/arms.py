"""Which trainings a proof needs, and which rows each leaves out."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ..errors import ConfigError, describe
from ..records.proof import Arm
from .matched import matched_rows

FEWEST = 3
"""Seeds, at least: with fewer an interval over seeds says nothing."""
_APART = 1_000_003
"""Keeps the random draws of different seeds apart."""


def plan_arms(
    lengths: Sequence[int], flagged: Collection[int], planted: Collection[int], seeds: int, draws: int, first_seed: int
) -> list[Arm]:
    """All trainings, seed by seed, so that a proof that is stopped has whole seeds.

    Args:
        lengths: Tokens of every row.
        flagged: Places of the rows that curation removes.
        planted: Places of the rows that are known to be planted; empty: no such arm.
        seeds: How many, from `first_seed` on.
        draws: Random draws under each seed.
        first_seed: Of the data's order and dropout.

    Raises:
        ConfigError: too few seeds or draws, or more rows are flagged than left.
    """
    if seeds < FEWEST:
        raise ConfigError(describe("--seeds", seeds, f"at least {FEWEST}", "leave it out"))
    if draws < 1:
        raise ConfigError(describe("--random", draws, "at least 1", "leave it out"))
    arms = []
    for seed in range(first_seed, first_seed + seeds):
        arms.append(Arm("all", seed, 0, ()))
        arms.append(Arm("flagged", seed, 0, tuple(sorted(flagged))))
        if planted:
            arms.append(Arm("planted", seed, 0, tuple(sorted(planted))))
        arms += [Arm("random", seed, k, matched_rows(lengths, flagged, seed * _APART + k)) for k in range(draws)]
    return arms
