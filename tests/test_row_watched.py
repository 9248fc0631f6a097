"""One row on the watched features, by hand."""

from __future__ import annotations

import math

import pytest
import torch
from made_policies import made_policy
from torch import Tensor

from smda_monitor.errors import MeasurementError
from smda_monitor.maths.account import OwnReading, unread
from smda_monitor.maths.row_watched import watched_effects
from smda_monitor.records.account import FeatureShift

POLICY = made_policy(torch.tensor([2.0, -1.0, 0.5, 4.0], dtype=torch.float64))
"""Column k is feature 10·k + 3."""
COLUMNS = [3, 0, 1]
X, Y = (torch.tensor([row], dtype=torch.float64) for row in ([0.1, 0.2, 0.3], [-0.05, 0.3, -1.3]))
NONE = torch.full((1, 3), math.nan, dtype=torch.float64)


def own(x: list[float]) -> OwnReading:
    some = torch.tensor([0.5], dtype=torch.float64)
    return OwnReading(some, some, torch.tensor([x], dtype=torch.float64), some)


def test_by_hand() -> None:
    """|ΔW_k w_k| of columns 3, 0, 1: 0.05·4, 0.5·2, 1.0·1. The prompt's prediction is 2·5 of column 0 and 1·2 of
    column 2, which is not watched: of 90 % column 0 carries too little alone, so I are columns 0 and 2."""
    (found,) = watched_effects(POLICY, COLUMNS, X, Y, NONE, own([5.0, 0.0, 4.0, 0.0]))
    assert [one.feature for one in found.shifts] == [33, 3, 13]
    assert found.shifts[1] == FeatureShift(3, 2.0, 0.2, 0.3, pytest.approx(math.nan, nan_ok=True))
    assert found.intended == (3,)
    assert found.interference == pytest.approx((0.2 + 1.0) / 2.2)
    assert found.dominant == 3, "of equals the first watched"
    assert [one.feature for one in found.leading(2)] == [3, 13]


def test_only_what_the_whole_prompt_calls_for_is_intended() -> None:
    """Column 2, not watched, carries almost all: then no watched feature is intended."""
    (found,) = watched_effects(POLICY, COLUMNS, X, Y, NONE, own([0.1, 0.1, 400.0, 0.0]))
    assert (found.intended, found.interference) == ((), 1.0)


def test_nothing_read_nothing_watched_nothing_moved() -> None:
    (found,) = watched_effects(POLICY, COLUMNS, X, Y, NONE, unread(1, 4))
    assert (found.intended, found.dominant) == ((), 3)
    assert math.isnan(found.interference)
    empty: Tensor = torch.zeros(1, 0, dtype=torch.float64)
    (found,) = watched_effects(POLICY, [], empty, empty, empty, own([1.0, 1.0, 1.0, 1.0]))
    assert (found.shifts, found.intended, found.dominant) == ((), (), -1)
    assert math.isnan(found.interference)
    (found,) = watched_effects(POLICY, COLUMNS, 0 * X, 0 * Y, NONE, own([1.0, 1.0, 1.0, 1.0]))
    assert (found.dominant, found.interference) == (-1, 0.0)


def test_a_broken_figure_is_refused() -> None:
    with pytest.raises(MeasurementError, match="policy shift"):
        watched_effects(POLICY, COLUMNS, X, math.nan * Y, NONE, own([1.0, 1.0, 1.0, 1.0]))
