"""The choice under a budget of time: held against a search over everything, and its laws."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smda_monitor.maths.budget import (
    AUDIT_PART,
    FEWEST,
    ROTATION,
    SLACK,
    WINDOW,
    Choice,
    Costs,
    Limits,
    added_seconds,
    audit_part,
    choose,
    fewest_probes,
    running_median,
    settle,
)

seconds = st.floats(0, 10, allow_subnormal=False)
overheads = st.floats(0.01, 3)


@st.composite
def any_costs(draw: st.DrawFn) -> Costs:
    cheap = st.floats(0, 0.1, allow_subnormal=False)
    return Costs(draw(st.floats(0.01, 10)), draw(seconds), draw(cheap), draw(cheap), draw(cheap), draw(seconds))


@st.composite
def any_limits(draw: st.DrawFn) -> Limits:
    whole = draw(st.integers(1, 40))
    most = draw(st.integers(1, whole))
    longest = draw(st.integers(1, 64))
    return Limits(whole, most, fewest_probes(3, most), longest, draw(st.integers(1, longest)))


def test_the_interval_is_the_smallest_that_fits() -> None:
    """By hand: 20 probes of 0.5 s cost 10 s an account, 1 s a step is allowed."""
    costs, limits = Costs(step=10.0, probe=0.5), Limits(whole=20, most=20, fewest=8)
    found = choose(costs, limits, 0.10)
    assert (found.every, found.probes, found.kept) == (10, 20, True)
    assert found.expected == pytest.approx(0.10)
    # A step costs 0.2 s of its own and an account 2 s more: 12 s / J + 0.2 + 20·0.01 ≤ 1
    dearer = replace(costs, other=0.2, split=0.01, account=2.0)
    assert choose(dearer, limits, 0.10).every == math.ceil(12 / 0.6)
    # Of 30 probes 20 are measured, others every 8 accounts: 9/8 of the probes' 10 s.
    assert choose(costs, replace(limits, whole=30), 0.10).every == math.ceil(10 * 9 / 8)
    assert choose(costs, limits, 0.10, audits=0.05).every == 20


def test_fewer_probes_where_the_longest_interval_is_too_dear() -> None:
    costs, limits = Costs(step=1.0, probe=1.0), Limits(whole=40, most=40, fewest=8)
    found = choose(costs, limits, 0.5)
    assert (found.every, found.probes, found.kept) == (63, 28, True), "the most that fit into 64 steps"
    assert found.expected == pytest.approx(28 * 9 / 8 / 63)
    hopeless = choose(costs, limits, 0.01)
    assert (hopeless.every, hopeless.probes, hopeless.kept) == (64, 8, False)
    assert hopeless.expected == pytest.approx(9 / 64), "and it says by how much the budget is missed"


def test_the_users_own_interval_and_number_are_bounds() -> None:
    costs, limits = Costs(step=10.0, probe=0.01), Limits(whole=40, most=12, fewest=8, shortest=5)
    assert (choose(costs, limits, 1.0).every, choose(costs, limits, 1.0).probes) == (5, 12)
    assert choose(replace(costs, probe=100.0), replace(limits, longest=7), 0.1).every == 7


@settings(max_examples=60, deadline=None)
@given(any_costs(), any_limits(), overheads, st.floats(0, AUDIT_PART))
def test_law_it_is_what_a_search_over_everything_finds(
    costs: Costs, limits: Limits, overhead: float, audits: float
) -> None:
    """Within the bounds; within the budget wherever anything is; the most probes, then the shortest interval."""
    found = choose(costs, limits, overhead, audits * overhead)
    assert limits.shortest <= found.every <= limits.longest
    assert limits.fewest <= found.probes <= limits.most
    allowed = (overhead - audits * overhead) * costs.step
    everything = product(range(limits.shortest, limits.longest + 1), range(limits.fewest, limits.most + 1))
    fits = [(j, m) for j, m in everything if added_seconds(costs, j, m, limits.whole) <= allowed]
    assert found.kept == bool(fits)
    if fits:
        most = max(m for _, m in fits)
        assert (found.every, found.probes) == (min(j for j, m in fits if m == most), most)
    seconds = added_seconds(costs, found.every, found.probes, limits.whole)
    assert found.expected == pytest.approx(seconds / costs.step + audits * overhead)


@settings(max_examples=60, deadline=None)
@given(any_costs(), any_limits(), overheads, st.floats(1, 5))
def test_law_more_time_never_measures_less(costs: Costs, limits: Limits, overhead: float, factor: float) -> None:
    """Monotone in the budget and in the seconds of a plain step."""
    base = choose(costs, limits, overhead)
    for richer in (
        choose(costs, limits, overhead * factor),
        choose(replace(costs, step=costs.step * factor), limits, overhead),
    ):
        assert richer.kept >= base.kept
        if base.kept:
            assert richer.probes >= base.probes
            assert richer.probes > base.probes or richer.every <= base.every


def test_no_plain_time_is_no_budget() -> None:
    found = choose(Costs(step=0.0, probe=1.0), Limits(20, 20, 8), 0.1)
    assert (found.expected, found.kept) == (math.inf, False)


def test_audits_take_a_third_at_most() -> None:
    assert audit_part(0.03, 1.0) == pytest.approx(0.06)
    assert audit_part(0.03, 0.06) == pytest.approx(0.02)
    assert audit_part(0.0, 0.1) == 0.0


def test_the_fewest_probes() -> None:
    assert fewest_probes(3, 32) == FEWEST
    assert fewest_probes(6, 32) == 12
    assert fewest_probes(3, 5) == 5


@pytest.mark.parametrize(
    ("held", "wanted", "expected"),
    [
        ((10, 32), (9, 32), (10, 32)),
        ((10, 32), (7, 32), (7, 32)),
        ((10, 32), (11, 32), (11, 32)),
        ((64, 20), (64, 24), (64, 20)),
        ((64, 20), (64, 26), (64, 26)),
        ((64, 20), (64, 19), (64, 19)),
        ((64, 32), (60, 32), (60, 32)),
    ],
)
def test_noise_does_not_move_the_choice(
    held: tuple[int, int], wanted: tuple[int, int], expected: tuple[int, int]
) -> None:
    longest = 62 if wanted[0] == 60 else 64
    assert settle(held, Choice(*wanted, 0.1, True), longest) == expected


@settings(max_examples=60, deadline=None)
@given(any_costs(), any_limits(), overheads, st.integers(1, 64), st.integers(1, 40))
def test_law_what_is_held_is_within_the_budget_too(
    costs: Costs, limits: Limits, overhead: float, every: int, probes: int
) -> None:
    limits = replace(limits, whole=limits.whole + 1)  # never all: otherwise fewer probes may cost more
    wanted = choose(costs, limits, overhead)
    found = settle((every, probes), wanted, limits.longest)
    assert added_seconds(costs, *found, limits.whole) <= added_seconds(costs, wanted.every, wanted.probes, limits.whole)
    assert found[0] <= SLACK * wanted.every
    assert wanted.probes <= SLACK * found[1]


def test_one_slow_step_and_the_first_do_not_count() -> None:
    assert running_median([9.0]) == 9.0
    assert running_median([9.0, 1.0]) == 1.0
    assert running_median([9.0, 1.0, 1.1, 50.0, 0.9, 1.0]) == 1.0
    assert running_median([5.0] * 20 + [2.0] * WINDOW) == 2.0
    assert math.isnan(running_median([]))
    assert ROTATION > 1
