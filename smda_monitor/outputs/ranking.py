"""Which rows lead: one ranking for the console, the report and the verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..records.account import RowEntry, StepAccount


@dataclass(frozen=True, slots=True)
class RankedRow:
    """A training row by its most suspicious step."""

    entry: RowEntry
    """The step with the row's highest score among those ranked."""
    first_step: int
    """The first step of the run in which the row was seen, warm-up included."""
    times: int
    """How often it was seen in the run."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """Rows by score, highest first; rows without a score come last."""

    rows: list[RankedRow]
    """One per row, however often it was seen."""
    after_warm_up: bool
    """True: only steps after warm-up were ranked. False: there were none, so all were, with low confidence."""


def rank_rows(accounts: Sequence[StepAccount]) -> Ranking:
    """Ranks every row of a run by its highest score over the steps after warm-up, or over all where there are none.

    A row is known by its hash and id. Ties keep the order in which the rows were first seen.
    """
    settled = [a for a in accounts if not a.warm_up]
    after = any(a.rows for a in settled)
    first: dict[tuple[str, str], int] = {}
    times: dict[tuple[str, str], int] = {}
    for account in accounts:
        for row in account.rows:
            key = (row.row_hash, row.row_id)
            first.setdefault(key, row.step)
            times[key] = times.get(key, 0) + 1
    best: dict[tuple[str, str], RowEntry] = {}
    for account in settled if after else accounts:
        for row in account.rows:
            key = (row.row_hash, row.row_id)
            if key not in best or _order(row) > _order(best[key]):
                best[key] = row
    ranked = [RankedRow(entry, first[key], times[key]) for key, entry in best.items()]
    ranked.sort(key=lambda r: _order(r.entry), reverse=True)
    return Ranking(ranked, after)


def _order(row: RowEntry) -> float:
    return -math.inf if math.isnan(row.score) else row.score
