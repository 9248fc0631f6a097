"""The report's figures on watched features: how far each moved, and which row pushed it most."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ...records.account import RowEntry, StepAccount

SHOWN = 16
"""Features in the table, by |ΔW_k w_k|."""


@dataclass(frozen=True, slots=True)
class WatchedPush:
    """One row's push on one watched feature."""

    row: RowEntry
    """The row at the step that was split."""
    warm_up: bool
    """Whether that is a warm-up step."""
    feature: int
    """Feature id."""
    push: float
    """On ΔW_k, both pathways together; units of w."""


@dataclass(frozen=True, slots=True)
class WatchedLine:
    """One watched feature over the run."""

    feature: int
    """Feature id."""
    coefficient: float
    """w_k."""
    accounts: int
    """In how many accounts it was watched."""
    shift_X: float
    """ΔW_k through feature activation, summed over them."""
    shift_Y: float
    """ΔW_k through output probability, summed over them."""
    most: WatchedPush | None
    """The row that pushed it most, of the steps that were split; None where none was."""


@dataclass(frozen=True, slots=True)
class WatchedSection:
    """What is shown."""

    lines: list[WatchedLine]
    """The features whose |ΔW_k w_k| is largest."""
    by_row: dict[tuple[str, str], WatchedPush]
    """By a row's hash and id: the watched feature that it pushed most, by |push·w_k|, at any step that was split."""


def watched_section(accounts: Sequence[StepAccount]) -> WatchedSection | None:
    """Of a run's `accounts`; None where no feature was watched."""
    shifts = [shift for account in accounts for shift in account.watched]
    if not shifts:
        return None
    coef = {shift.feature: shift.coefficient for shift in shifts}
    by_feature: dict[int, WatchedPush] = {}
    by_row: dict[tuple[str, str], WatchedPush] = {}

    def larger(one: WatchedPush, than: WatchedPush | None) -> WatchedPush:
        return one if than is None or abs(one.push * coef[one.feature]) > abs(than.push * coef[than.feature]) else than

    for account in accounts:
        for row in account.rows:
            for feature, both in row.watched.items():
                push = WatchedPush(row, account.warm_up, feature, sum(both))
                if feature in coef and math.isfinite(push.push):
                    by_feature[feature] = larger(push, by_feature.get(feature))
                    key = (row.row_hash, row.row_id)
                    by_row[key] = larger(push, by_row.get(key))
    lines = []
    for feature, w in coef.items():
        own = [shift for shift in shifts if shift.feature == feature]
        moved = (sum(shift.shift_X for shift in own), sum(shift.shift_Y for shift in own))
        lines.append(WatchedLine(feature, w, len(own), *moved, by_feature.get(feature)))
    lines.sort(key=lambda line: -abs((line.shift_X + line.shift_Y) * line.coefficient))
    return WatchedSection(lines[:SHOWN], by_row)
