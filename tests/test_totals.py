"""Accounts added up: by hand, at their ends, and as laws."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_run import make_account, make_header

from smda_monitor.maths.totals import missed_fraction, named_fraction, unexplained_of_probes
from smda_monitor.outputs.summary import totals
from smda_monitor.records.account import READINGS, StepAccount, TargetBalance

NUMBERS = st.floats(-10, 10)


def balance(measured: float, shares: float = 0.0, history: float = 0.0, decay: float = 0.0) -> TargetBalance:
    return TargetBalance("S_X", measured, shares, history, decay, abs(shares))


def account() -> StepAccount:
    return make_account(3, make_header(Path()).policy)


def test_named_by_hand() -> None:
    one = TargetBalance("S_X", 0.9, 0.5, 0.2, 0.1, 1.5, handed=0.15, absolute_handed=0.45)
    two = TargetBalance("S_X", 0.5, 2.0, 0.0, -1.0, 6.0, handed=0.5, absolute_handed=2.5)
    assert named_fraction([one]) == pytest.approx((1.5 + 0.45) / (1.5 + 0.45 + 0.05 + 0.1))
    assert named_fraction([two]) == pytest.approx((6 + 2.5) / (6 + 2.5 + 0.5 + 1)), "handed too much counts as unnamed"
    assert named_fraction([one, two]) == pytest.approx((1.95 + 8.5) / (2.1 + 10))


def test_named_at_its_ends() -> None:
    assert named_fraction([]) == named_fraction([balance(0.0)]) == 1
    assert named_fraction([balance(1.0, history=1.0)]) == 0
    assert named_fraction([replace(balance(1.0, history=1.0), handed=1.0, absolute_handed=1.0)]) == 1


def test_missed_by_hand() -> None:
    """What two accounts leave may cancel: the run as a whole is asked."""
    assert missed_fraction([balance(1.0, 0.5, 0.2, 0.1)]) == pytest.approx(0.2)
    assert missed_fraction([balance(1.0, 0.8), balance(3.0, 2.8)]) == pytest.approx(0.1)
    assert missed_fraction([balance(1.0, 0.8), balance(3.0, 3.2)]) == pytest.approx(0)
    assert missed_fraction([balance(1.0), balance(-1.0)]) == missed_fraction([]) == 0
    assert missed_fraction([balance(0.0, 0.5)]) == math.inf


@given(st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS), max_size=6), st.floats(0.1, 10))
def test_laws(numbers: list[tuple[float, float, float, float]], by: float) -> None:
    run = [balance(*four) for four in numbers]
    assert 0 <= named_fraction(run) <= 1
    assert missed_fraction(run) >= 0
    larger = [balance(*(by * number for number in four)) for four in numbers]
    assert named_fraction(larger) == pytest.approx(named_fraction(run), abs=1e-9), "no unit"
    assert named_fraction(reversed(run)) == pytest.approx(named_fraction(run))


def probes(measured: tuple[float, ...], shares: list[tuple[float, ...]]) -> StepAccount:
    """Two probes, momentum 0.25 of the first, decay −0.25 of the second."""
    made = account()
    figures = {"mass.measured": measured, "mass.history": (0.25, 0.0), "mass.decay": (0.0, -0.25)}
    rows = [replace(row, probe_share={"mass": share}) for row, share in zip(made.rows, shares, strict=False)]
    return replace(made, probes=figures, rows=tuple(rows))


def test_unexplained_of_probes_by_hand() -> None:
    """The first probe leaves 0.5 of 1, the second −0.5 of −3: their mean would leave nothing."""
    found = probes((1.0, -3.0), [(0.5, -2.0), (-0.25, -0.25)])
    assert unexplained_of_probes(found, "mass") == pytest.approx((0.5 + 0.5) / 4)
    assert unexplained_of_probes(found, "mass", [0]) == pytest.approx(0.5)
    assert unexplained_of_probes(found, "mass", [1]) == pytest.approx(0.5 / 3)
    assert unexplained_of_probes(found, "mass", []) == 0
    assert unexplained_of_probes(probes((0.0, 0.0), [(0.0, 0.0)]), "mass") == math.inf


def test_totals_are_of_leading_targets_over_the_whole_run() -> None:
    run = [account(), replace(account(), step=4, since=3)]
    found = totals(run)
    leading = [b for b in account().balances if b.target.count(".") < 2]
    assert list(found) == [b.target for b in leading]
    assert {"S_X", "S_Y"} < set(found)
    assert any(name.startswith(READINGS) for name in found)
    for one in leading:
        assert found[one.target]["measured"] == pytest.approx(2 * one.measured)
        assert found[one.target]["missed"] == pytest.approx(abs(one.unexplained / one.measured))
        assert found[one.target]["named"] == pytest.approx(named_fraction([one]))
    assert totals([]) == {}
