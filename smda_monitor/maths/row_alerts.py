"""Rows of a run that teach or move the behaviour against what their prompts call for, at a false-discovery rate.

The score rule (`curation`) on all rows so far, at every account anew: each row by its latest entry, those of warm-up
left out, where pushes are sign-like, and those of steps whose audit fell short. A score within the tolerance names
nobody: rows that have nothing to do with a behaviour lie close together, and after a few steps they are few, so that
some stand out of them that go against nothing. A row is named once. The rate is of all rows that stand out at one
account; among all that a run has named, chance picks of many accounts add up, and the part that is there by chance can
be larger.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import islice

from ..records.account import RowEntry, StepAccount
from ..records.alert import Alert
from ..records.curation import RowFigures, ScoreCut
from .alerts import LEADING_ROWS
from .curation import divide

LATEST = 4096
"""Rows that are held against one another, at most: the latest ones, so that an account costs the same in a long run."""


def row_alert(
    behaviour: str,
    accounts: Sequence[StepAccount],
    rate: float,
    known: Collection[str],
    short: Collection[int] = (),
    tolerance: float = 0.0,
) -> Alert | None:
    """The alert that the latest of `accounts` raises for the monitor of `behaviour` on rows not `known` by id whose
    score is above `tolerance` (≥ 0), the worst first, at most ten; None where there is none. `short`: steps whose audit
    fell short (`fidelity.short_steps`). Raises `ConfigError` for a `rate` outside (0, 1)."""
    rows = _latest(accounts, short)
    division = divide([_figures(row) for row in rows], "score", rate)
    assert isinstance(division.cut, ScoreCut)
    found = [
        (excess, row)
        for row, bucket, excess in zip(rows, division.buckets, division.excess, strict=True)
        if bucket == "remove" and row.score > tolerance and row.row_id not in known
    ]
    worst = sorted(found, key=lambda one: -one[0])[:LEADING_ROWS]
    if not worst:
        return None
    first, others = worst[0][1].row_id, len(worst) - 1
    return Alert(
        "rows",
        accounts[-1].step,
        min(row.step for _, row in worst),
        f"row {first}" + (f" and {others} more" if others else "") + f" by {behaviour}",
        "score over what is usual",
        worst[0][0],
        division.cut.threshold,
        None,
        tuple(row.row_id for _, row in worst),
        tuple(row.own_push for _, row in worst),
        "Read the rows: they go against what their prompts call for. "
        f"Of all that stand out now about {rate:.0%} do so by chance.",
    )


def _latest(accounts: Sequence[StepAccount], short: Collection[int]) -> list[RowEntry]:
    """The latest entry of every row that has a score, after warm-up and of no `short` step, latest first."""
    judged = (account for account in reversed(accounts) if not account.warm_up and account.step not in short)
    entries = (row for account in judged for row in reversed(account.rows))
    latest: dict[str, RowEntry] = {}
    for row in islice((row for row in entries if row.score == row.score), 2 * LATEST):
        if len(latest) < LATEST:
            latest.setdefault(row.row_id, row)
    return list(latest.values())


def _figures(row: RowEntry) -> RowFigures:
    return RowFigures(
        row_id=row.row_id,
        line=0,
        score=row.score,
        S_X=row.push.get("S_X", 0.0),
        S_Y=row.push.get("S_Y", 0.0),
        own_push=row.own_push,
        answer_reading=row.answer_reading,
        expected=row.expected,
        interference=row.interference,
        dominant_feature=row.dominant_feature,
        unintended=row.unintended,
    )
