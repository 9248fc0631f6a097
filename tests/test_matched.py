"""Random rows of the same length, and the trainings that a proof needs."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smda_monitor.errors import ConfigError
from smda_monitor.maths.arms import plan_arms
from smda_monitor.maths.matched import NEAR, matched_rows

LENGTHS = [10 * (i % 20) + 5 for i in range(200)]


def test_each_row_has_a_counterpart_of_its_length() -> None:
    chosen = [i for i in range(200) if LENGTHS[i] > 150][:12]
    taken = matched_rows(LENGTHS, chosen, seed=0)
    by_length, matched = (sorted(LENGTHS[i] for i in places) for places in (chosen, taken))
    assert all(abs(a - b) <= 10 for a, b in zip(by_length, matched, strict=True))
    blind = 12 * sum(LENGTHS) / 200
    assert abs(sum(matched) - sum(by_length)) < 40 < abs(blind - sum(by_length)), "drawn blindly they would be shorter"


def test_draws_differ_by_seed_alone() -> None:
    chosen = range(0, 40, 2)
    draws = {matched_rows(LENGTHS, chosen, seed) for seed in range(20)}
    assert len(draws) == 20
    assert matched_rows(LENGTHS, chosen, 3) == matched_rows(LENGTHS, list(chosen)[::-1], 3)


def test_every_near_row_is_drawn_at_times() -> None:
    lengths = [50, *range(47, 54), 500]
    drawn = [matched_rows(lengths, [0], seed)[0] for seed in range(200)]
    assert {lengths[i] for i in drawn} == {48, 49, 50, 51, 52}
    assert len(set(drawn)) == NEAR


def test_where_too_few_are_left_it_says_so() -> None:
    assert matched_rows([1, 2, 3, 4], [0, 3], 0) == (1, 2)
    with pytest.raises(ConfigError, match=r"3 of 4 rows flagged.*at most half"):
        matched_rows([1, 2, 3, 4], [0, 1, 3], 0)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 300), min_size=2, max_size=60), st.data())
def test_laws(lengths: list[int], data: st.DataObject) -> None:
    chosen = data.draw(st.sets(st.integers(0, len(lengths) - 1), max_size=len(lengths) // 2))
    taken = matched_rows(lengths, chosen, data.draw(st.integers(0, 1000)))
    assert len(set(taken)) == len(taken) == len(chosen)
    assert not set(taken) & chosen
    assert all(a < b for a, b in pairwise(taken))


def test_the_trainings_of_a_proof() -> None:
    arms = plan_arms(LENGTHS, [3, 1], [5, 7, 9], seeds=3, draws=2, first_seed=10)
    assert [arm.key for arm in arms[:5]] == ["all-10-0", "flagged-10-0", "planted-10-0", "random-10-0", "random-10-1"]
    assert len({arm.key for arm in arms}) == len(arms) == 15
    assert {arm.seed for arm in arms} == {10, 11, 12}
    for arm in arms:
        expected = {"all": 0, "flagged": 2, "planted": 3, "random": 2}[arm.name]
        assert len(arm.left_out) == expected
        assert arm.name != "flagged" or arm.left_out == (1, 3)
    draws = [arm.left_out for arm in arms if arm.name == "random"]
    assert len(set(draws)) > 3, "draws differ"
    assert not any({1, 3} & set(places) for places in draws)
    more = plan_arms(LENGTHS, [3, 1], [], seeds=4, draws=1, first_seed=10)
    assert {arm.name for arm in more} == {"all", "flagged", "random"}
    assert [a for a in more if a.key == "random-11-0"] == [a for a in arms if a.key == "random-11-0"]


@pytest.mark.parametrize(("seeds", "draws", "named"), [(2, 1, "--seeds: found 2"), (3, 0, "--random: found 0")])
def test_too_few_are_refused(seeds: int, draws: int, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        plan_arms(LENGTHS, [1], [], seeds, draws, 0)
