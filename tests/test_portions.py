"""Portions against the range that they divide; a spacing against every other that would do."""

from __future__ import annotations

from itertools import chain

from hypothesis import given
from hypothesis import strategies as st

from smda_monitor.maths.portions import portions, spacing


@given(st.integers(0, 200), st.integers(1, 40))
def test_portions_are_the_range_in_as_few_parts_as_may_be(count: int, longest: int) -> None:
    found = portions(count, longest)
    assert list(chain.from_iterable(found)) == list(range(count))
    assert all(len(part) == longest for part in found[:-1])
    assert all(0 < len(part) <= longest for part in found)


@given(st.integers(0, 200), st.integers(1, 40))
def test_a_spacing_is_the_closest_that_takes_no_more_than_allowed(count: int, most: int) -> None:
    found = spacing(count, most)
    fitting = [step for step in range(1, count + 2) if len(range(0, count, step)) <= most]
    assert found == fitting[0]
