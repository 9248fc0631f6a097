"""Curation by hand, on scores whose truth is known, and its laws."""

from __future__ import annotations

from math import inf, isnan, nan
from statistics import mean

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t as student
from torch import Tensor

from smda_monitor.errors import ConfigError
from smda_monitor.maths.curation import (
    NORMAL,
    bulk,
    curate_by_median,
    curate_by_score,
    divide,
    flag_rates,
    mirrored_rate,
    misled,
    opposed,
    over_usual,
    ranks,
)
from smda_monitor.records.curation import MedianCut, RowFigures, ScoreCut


def t(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def normal(n: int, seed: int) -> Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_bulk_by_hand() -> None:
    found = bulk(t(1, 2, 4, 7, 30, nan))
    assert found.centre == 4
    assert found.spread == pytest.approx(NORMAL * 2), "median of 3, 2, 0"
    assert found.freedom == pytest.approx(0.37 * 3)
    assert bulk(t(1, 2, 4, 7, 3e9)) == bulk(t(1, 2, 4, 7, 30)), "what is high does not widen it"


def test_the_spread_of_many_normal_values_is_their_standard_deviation() -> None:
    found = bulk(3 * normal(20_000, 0) - 1)
    assert found.centre == pytest.approx(-1, abs=0.1)
    assert found.spread == pytest.approx(3, rel=0.03)


def test_rates_are_benjamini_and_hochbergs() -> None:
    """By their own words: the largest k with p_(k) ≤ kq/n; the rates are the smallest q at which a value is flagged."""
    scores = torch.cat([normal(60, 1), normal(12, 2) + 4])
    by, rates = bulk(scores), flag_rates(scores)
    p = student.sf(((scores - by.centre) / by.spread).numpy(), by.freedom)
    for q in (0.01, 0.05, 0.1, 0.3):
        order = sorted(range(72), key=lambda i: p[i])
        k = max((k for k in range(1, 73) if p[order[k - 1]] <= k * q / 72), default=0)
        assert set(torch.nonzero(rates <= q).flatten().tolist()) == set(order[:k])
    assert 5 < int((rates <= 0.1).sum()) < 20, "neither none nor all"


@pytest.mark.parametrize("rate", [0.1, 0.2])
def test_no_more_than_the_rate_is_flagged_wrongly(rate: float) -> None:
    """Rows as intended are normal, and planted ones lie higher: the false-discovery proportion, over many draws."""
    planted, wrong, found = torch.arange(180) >= 150, [], []
    for seed in range(150):
        scores = normal(180, seed) + 3.5 * planted
        flagged = flag_rates(scores) <= rate
        wrong.append(float((flagged & ~planted).sum()) / max(1, int(flagged.sum())))
        found.append(float((flagged & planted).sum()) / 30)
    assert mean(wrong) <= rate
    assert mean(found) > 0.5, "and what is planted is found"


def test_where_nothing_is_planted_hardly_anything_is_flagged() -> None:
    any_flagged = [bool((flag_rates(normal(180, 1000 + seed)) <= 0.1).any()) for seed in range(200)]
    assert mean(any_flagged) <= 0.2, "the rate itself, and what the spread of few values errs by"


def test_a_bulk_that_leans_down_flags_less_not_more() -> None:
    """Rows that go strongly along with their prompts are as intended too: a long lower tail must not cost the rate."""
    flagged = [int((flag_rates(-(normal(180, seed).abs() ** 1.5)) <= 0.1).sum()) for seed in range(50)]
    assert flagged == [0] * 50


def test_a_score_is_held_against_what_is_usual_at_its_expectation() -> None:
    """The slope against a search over all of them; rows as intended lie along it, one that does not stands out."""
    generator = torch.Generator().manual_seed(5)
    expected = 2 * torch.rand(120, generator=generator, dtype=torch.float64) - 1
    scores = -1.2 * expected.square() + 0.1 * normal(120, 6)
    scores[:9] += 0.9
    excess, slope = over_usual(scores, expected)
    grid = torch.linspace(-2, 0, 4001, dtype=torch.float64)
    missed = (scores - grid[:, None] * expected.square()).abs().sum(1)
    assert slope == pytest.approx(float(grid[missed.argmin()]), abs=6e-4)
    assert torch.allclose(excess, scores - slope * expected.square())
    found, plain = (set(torch.nonzero(flag_rates(x) <= 0.1).flatten().tolist()) for x in (excess, scores))
    assert len(found & set(range(9))) >= 8
    assert len(found) <= 12
    assert len(plain & set(range(9))) < 4, "scores alone would not find them"


def test_what_cannot_be_held_against_anything_stays_as_it_is() -> None:
    excess, slope = over_usual(t(1.0, nan, 2.0), t(0.0, 0.5, nan))
    assert slope == 0.0
    assert excess[0] == 1.0
    assert excess[1:].isnan().all()
    assert over_usual(t(-3.0, 1.0), t(2.0, 0.0))[0].tolist() == [0.0, 1.0]


def test_mirrored_by_hand() -> None:
    scores = t(-3, -2, -1, 0, 1, 2, 3, 3.5)
    assert mirrored_rate(scores, 0.0, 2.5) == pytest.approx((1 + 1) / 2)
    assert mirrored_rate(scores, 0.0, 3.2) == pytest.approx(1 / 1)
    assert isnan(mirrored_rate(scores, 0.0, inf))


def test_direction() -> None:
    found = opposed(t(0.9, 0.9, -0.9, 0.9, nan), t(-1, 1, -1, nan, -1), t(1, 1, nan, -1, -1))
    assert found.tolist() == [True, False, False, True, False]


def test_misled_by_hand() -> None:
    found = misled(t(2, 2, -3, 1, 1), t(0.5, -0.5, 1, 0, nan))
    assert found[:4].tolist() == [-1.0, 1.0, 3.0, 0.0]
    assert isnan(found[4])


def test_rows_go_where_score_direction_and_interference_send_them() -> None:
    scores = torch.cat([normal(100, 3).clamp(max=1), t(6.0, 6.1, 6.2, 6.3, 6.4, nan)])
    against = torch.ones(106, dtype=torch.bool)
    against[100] = False
    interference = 0.5 + 0.02 * normal(106, 4)
    interference[7] = 0.95
    shift = 0.1 * normal(106, 5)
    shift[8], shift[9] = 2.0, -2.0
    remove, review, cut = curate_by_score(scores, against, interference, shift, 0.1)
    assert torch.nonzero(remove).flatten().tolist() == [101, 102, 103, 104]
    assert not bool(review[9]), "a row that shifts the policy as its prompt calls for is kept"
    assert {7, 8, 100, 105} <= set(torch.nonzero(review).flatten().tolist())
    assert int(review.sum()) < 12
    assert cut.threshold == 6.0, "a row that goes with its prompt is flagged all the same"
    assert cut.looser_rate == 0.2
    assert cut.looser_threshold <= cut.threshold
    assert cut.mirrored == pytest.approx(1 / 5)


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, 2.0, nan])
def test_a_rate_that_is_none_is_refused(rate: float) -> None:
    with pytest.raises(ConfigError, match="false-discovery rate: found"):
        curate_by_score(t(1, 2), torch.ones(2, dtype=torch.bool), t(0, 0), t(0, 0), rate)


def test_a_bulk_that_does_not_vary_flags_nothing() -> None:
    assert flag_rates(t(1, 1, 1, 1, 1, 50)).tolist() == [1.0] * 6
    assert flag_rates(t(nan, nan)).isnan().all()
    assert flag_rates(t(nan, 3.0)).tolist()[1] == 1.0
    unknown = t(nan, nan)
    remove, review, cut = curate_by_score(unknown, torch.zeros(2, dtype=torch.bool), unknown, unknown, 0.1)
    assert (remove.any(), review.all(), cut.threshold) == (False, True, inf)


def test_the_papers_medians_by_hand() -> None:
    S = t(1.0, 4.0, -2.0, 3.0, -1.0, 2.0, 9.0)
    expected = t(0.5, 0.5, 0.5, -0.5, -0.5, -0.5, nan)
    remove, review, cut = curate_by_median(S, expected)
    assert (cut.harmful, cut.harmless) == (1.0, 2.0)
    # Harmful 1 and −2 lie below the harmless median 2; harmless 3 and 2 above the harmful median 1.
    assert remove.tolist() == [True, False, True, True, False, True, False]
    assert review.tolist() == [False] * 6 + [True]


def test_with_one_sort_of_rows_the_median_rule_removes_nothing() -> None:
    remove, review, cut = curate_by_median(t(1, 2, 3), t(0.2, 0.3, 0.4))
    assert not bool(remove.any() | review.any())
    assert isnan(cut.harmless)


def row(i: int, score: float, expected: float, push: float = 0.0, S: float = 0.0) -> RowFigures:
    return RowFigures(f"row-{i}", i, score, S, 0.0, push, nan, expected, 0.5, -1, False)


def test_rows_are_divided_by_their_scores() -> None:
    """Forty rows whose scores lie along −e², four above it that push the wrong way, one above that does not, one
    without a score."""
    bulk_rows = [row(i, -(e**2) + 0.01 * (i % 7), e, e) for i, e in enumerate(0.2 + 0.02 * k for k in range(40))]
    high = [row(40 + k, 3.0 + k, 0.5, -0.1) for k in range(4)]
    found = divide([*bulk_rows, *high, row(44, 9.0, 0.5, 0.1), row(45, nan, nan, nan)], "score", 0.1)
    assert found.buckets == ("keep",) * 40 + ("remove",) * 4 + ("review",) * 2
    assert found.ranks[40:] == (5, 4, 3, 2, 1, 0)
    assert (found.scored, sorted(found.ranks)[0]) == (45, 0)
    above = [*bulk_rows, *high, row(44, 9.0, 0.5)]
    _, slope = over_usual(t(*(one.score for one in above)), t(*(one.expected for one in above)))
    assert found.excess[40] == pytest.approx(3.0 - slope * 0.25)
    assert isnan(found.excess[45])
    assert isinstance(found.cut, ScoreCut)
    assert (found.cut.rate, found.cut.looser_rate) == (0.1, 0.2)


def test_rows_are_divided_by_the_papers_medians() -> None:
    sorts = [(0.5, 1.0), (0.5, 4.0), (0.5, -2.0), (-0.5, 3.0), (-0.5, -1.0), (-0.5, 2.0), (nan, 9.0)]
    found = divide([row(i, 0.0, expected, S=S) for i, (expected, S) in enumerate(sorts)], "median", 7.0)
    assert found.buckets == ("remove", "keep", "remove", "remove", "keep", "remove", "review")
    assert found.cut == MedianCut(1.0, 2.0)


def test_ranks() -> None:
    assert ranks(t(2, nan, 5, 2, -1)) == [2, 0, 1, 2, 4]


SCORES = st.lists(st.floats(-10, 10).map(lambda x: round(x, 3)), min_size=1, max_size=40)


@settings(max_examples=50, deadline=None)
@given(SCORES, st.floats(0.02, 0.6), st.integers(0, 10**6))
def test_laws(values: list[float], rate: float, seed: int) -> None:
    scores, n = t(*values), len(values)
    generator = torch.Generator().manual_seed(seed)
    against, interference = torch.rand(n, generator=generator) < 0.7, torch.rand(n, generator=generator).double()
    shift = torch.rand(n, generator=generator).double()
    remove, review, cut = curate_by_score(scores, against, interference, shift, rate)
    rates = flag_rates(scores)
    assert not bool((remove & review).any()), "a row goes to one place"
    assert not bool((remove & ~against).any())
    assert bool(((scores >= cut.threshold) == (rates <= rate)).all()), "all from the threshold on, and no other"
    stricter, _, _ = curate_by_score(scores, against, interference, shift, rate / 2)
    assert bool((remove | ~stricter).all()), "a lower rate removes no other rows"
    order = torch.randperm(n, generator=generator)
    assert torch.allclose(flag_rates(scores[order]), rates[order])
    assert torch.allclose(flag_rates(4 * scores + 1), rates, atol=1e-9), "in any units"
    assert bool((rates[scores <= bulk(scores).centre] >= 0.5).all()), "nothing in the lower half stands out"
