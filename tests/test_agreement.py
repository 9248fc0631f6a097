"""Agreement of estimates with exact figures, against ranks counted by hand and the formulas taken pair by pair."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smda_monitor.maths.agreement import FEWEST, agreement, median, relative_error, relative_errors, same_sign, spearman

PAIRS = st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), max_size=12)


def ranks(values: list[float]) -> list[float]:
    """1 for the lowest; equal ones share the mean of their places."""
    return [sum(v < one for v in values) + (1 + sum(v == one for v in values)) / 2 for one in values]


def test_a_constructed_truth() -> None:
    estimates, exact = [1.1, -2.0, 3.0, 7.0], [1.0, -1.0, -1.0, 0.0]
    assert relative_errors(estimates, exact) == pytest.approx([0.1, 1.0, 4.0]), "none of an exact figure of 0"
    assert math.isnan(relative_error(7.0, 0.0))
    assert same_sign(estimates, exact) == 0.5, "0 has no sign"
    found = agreement(estimates, exact)
    assert found["relative_error"] == pytest.approx(1.0)
    # Places 2, 1, 3, 4 and 4, 1.5, 1.5, 3: by Pearson's formula on them.
    assert found["spearman"] == pytest.approx(1.0 / math.sqrt(5.0 * 4.5))


@given(PAIRS)
@settings(max_examples=100, deadline=None)
def test_ranks_are_those_counted_by_hand(pairs: list[tuple[int, int]]) -> None:
    estimates, exact = [float(a) for a, _ in pairs], [float(b) for _, b in pairs]
    found = spearman(estimates, exact)
    if len(pairs) < FEWEST or len(set(estimates)) == 1 or len(set(exact)) == 1:
        assert math.isnan(found)
        return
    assert found == pytest.approx(float(np.corrcoef(ranks(estimates), ranks(exact))[0, 1]))
    assert spearman([math.exp(a) for a in estimates], exact) == pytest.approx(found), "ranks alone count"
    assert spearman([-a for a in estimates], exact) == pytest.approx(-found)


@given(PAIRS, st.sampled_from([1e-200, 1.0, 1e150]))
@settings(max_examples=100, deadline=None)
def test_signs_and_sizes_hold_in_any_units(pairs: list[tuple[int, int]], unit: float) -> None:
    estimates, exact = [unit * a for a, _ in pairs], [unit * b for _, b in pairs]
    same = [a * b > 0 for a, b in pairs]
    expected = sum(same) / len(same) if same else math.nan
    assert same_sign(estimates, exact) == pytest.approx(expected, nan_ok=True)
    errors = [abs(a - b) / abs(b) for a, b in pairs if b]
    assert relative_errors(estimates, exact) == pytest.approx(errors)


def test_too_few_pairs_have_no_ranks() -> None:
    assert math.isnan(spearman([1.0, 2.0], [1.0, 2.0]))
    assert spearman([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]) == pytest.approx(1.0)
    assert math.isnan(spearman([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], fewest=4))


def test_nothing_gives_nan_and_lists_of_two_lengths_are_refused() -> None:
    assert all(math.isnan(v) for v in (*agreement([], []).values(), same_sign([], []), median([])))
    assert median([3.0, 1.0, 2.0, 10.0]) == 2.5
    for of in (relative_errors, same_sign):
        with pytest.raises(ValueError, match="zip"):
            of([1.0], [1.0, 2.0])
