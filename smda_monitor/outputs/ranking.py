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
    """Its step with the highest score after warm-up; of the warm-up steps where it was seen in no other."""
    warm_up: bool
    """Whether that step is a warm-up step, whose figures carry low confidence."""
    first_step: int
    """The first step of the run in which the row was seen."""
    times: int
    """How often it was seen in the run."""


def rank_rows(accounts: Sequence[StepAccount]) -> list[RankedRow]:
    """Every row of a run by score, highest first; rows without a score come last.

    A row is known by its hash and id. Ties keep the order in which the rows were first seen.
    """
    seen: dict[tuple[str, str], list[tuple[StepAccount, RowEntry]]] = {}
    for account in accounts:
        for row in account.rows:
            seen.setdefault((row.row_hash, row.row_id), []).append((account, row))
    ranked = []
    for entries in seen.values():
        account, row = max(entries, key=lambda e: (not e[0].warm_up, _order(e[1])))
        ranked.append(RankedRow(row, account.warm_up, entries[0][1].step, len(entries)))
    return sorted(ranked, key=lambda r: _order(r.entry), reverse=True)


def intention(row: RowEntry) -> str:
    """``unintended``, ``as intended``, or ``n/a`` for a row whose own prompt was not read."""
    if math.isnan(row.own_push):
        return "n/a"
    return "unintended" if row.unintended else "as intended"


def _order(row: RowEntry) -> float:
    return -math.inf if math.isnan(row.score) else row.score
