from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smda_monitor.errors import ConfigError
from smda_monitor.maths.training_order import rows_left, training_order


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 30), st.data())
def test_laws(rows: int, data: st.DataObject) -> None:
    out = data.draw(st.sets(st.integers(0, rows - 1), max_size=rows - 1))
    seed, count = data.draw(st.integers(0, 999)), data.draw(st.integers(0, 100))
    order = training_order(rows, out, seed, count)
    assert len(order) == count
    kept = rows - len(out)
    for start in range(0, count, kept):
        part = order[start : start + kept]
        assert len(set(part)) == len(part), "each row once a pass"
        assert not set(part) & out
    # Whole passes without the rows are those with them, the rows struck out.
    passes = count // kept
    every = training_order(rows, (), seed, passes * rows)
    assert order[: passes * kept] == [i for i in every if i not in out]


def test_seeds_and_passes_differ() -> None:
    orders = {tuple(training_order(20, (), seed, 20)) for seed in range(10)}
    assert len(orders) == 10
    twice = training_order(20, (), 0, 40)
    assert twice[:20] != twice[20:]
    assert set(Counter(twice).values()) == {2}
    assert training_order(20, (), 0, 40) == twice


def test_no_row_left_is_refused() -> None:
    assert rows_left(5, (3, 0)) == [1, 2, 4]
    for order in (lambda: training_order(2, (0, 1), 0, 5), lambda: rows_left(2, (1, 0))):
        with pytest.raises(ConfigError, match="no row left"):
            order()
