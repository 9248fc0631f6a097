"""The crossed bootstrap against explicit resampling, against normal theory, and where the truth is known."""

from __future__ import annotations

import math
from math import nan

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from smda_monitor.maths.crossed import draw, mean_change, recovered, recovered_apart


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_draws_are_shares_of_counts() -> None:
    by = draw(3, 7, seed=0)
    for shares, size in ((by.seeds, 3), (by.prompts, 7)):
        assert torch.allclose(shares.sum(1), torch.ones(len(shares), dtype=torch.float64))
        assert torch.allclose((shares * size).round(), shares * size), "whole counts"
        assert float(shares.mean()) == pytest.approx(1 / size)
    assert torch.equal(draw(3, 7, seed=0).seeds, by.seeds)
    assert not torch.equal(draw(3, 7, seed=1).seeds, by.seeds)


def test_every_resample_is_one_of_drawn_seeds_and_prompts() -> None:
    """Rows and columns are picked out one by one, as the draw says, and the figure is taken of what was picked."""
    d, truth, by = normal(3, 8, seed=1), normal(3, 8, seed=2), draw(3, 8, seed=3, resamples=400)
    means, parts = [], []
    for seeds, prompts in zip(by.seeds, by.prompts, strict=True):
        rows = np.repeat(np.arange(3), (seeds * 3).round().long().numpy())
        columns = np.repeat(np.arange(8), (prompts * 8).round().long().numpy())
        picked, true = (x.numpy()[np.ix_(rows, columns)] for x in (d, truth))
        means.append(picked.mean())
        over, under = picked.mean(0), true.mean(0)
        parts.append(over @ under / (under @ under))
    for found, expected, value in (
        (mean_change(d, by), means, float(d.mean())),
        (recovered(d, truth, by), parts, float(d.mean(0) @ truth.mean(0) / truth.mean(0).square().sum())),
    ):
        assert found.value == pytest.approx(value)
        assert (found.low, found.high) == pytest.approx(tuple(np.quantile(expected, [0.025, 0.975])))


@pytest.mark.parametrize(("by_seed", "by_prompt"), [(1.0, 0.0), (0.0, 1.0), (1.0, 1.0)])
def test_the_interval_is_as_wide_as_both_variances_say(by_seed: float, by_prompt: float) -> None:
    seeds, prompts = normal(40, 1, seed=1), normal(1, 60, seed=2)
    found = mean_change(by_seed * seeds + by_prompt * prompts, draw(40, 60, seed=0))
    variance = by_seed**2 * float(seeds.var(correction=0)) / 40 + by_prompt**2 * float(prompts.var(correction=0)) / 60
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * math.sqrt(variance), rel=0.1)


def test_all_of_a_part_and_nothing_are_recovered() -> None:
    truth, by = normal(3, 20, seed=0) + 2, draw(3, 20, seed=0)
    whole, half = recovered(truth, truth, by), recovered(truth / 2, truth, by)
    assert (whole.value, whole.low, whole.high) == pytest.approx((1, 1, 1))
    assert (half.value, half.low, half.high) == pytest.approx((0.5, 0.5, 0.5))
    other = normal(3, 20, seed=1) / 10
    aside = other - truth.mean(0) * (other.mean(0) @ truth.mean(0)) / truth.mean(0).square().sum()
    nothing = recovered(aside, truth, by)
    assert nothing.value == pytest.approx(0, abs=1e-12)
    assert nothing.low < 0 < nothing.high
    assert nothing.high < 0.2
    against = recovered(-truth, truth, by)
    assert against.value == pytest.approx(-1)


def test_noise_that_stands_on_both_sides_counts_in_one_figure_and_not_in_the_other() -> None:
    """A baseline's noise is in every change from it: nothing removed, and yet something of the truth is recovered."""
    plain, apart = [], []
    for seed in range(60):
        noise = normal(3, 30, seed=seed)
        truth = 1 - noise + 0.3 * normal(3, 30, seed=1000 + seed)
        nothing = -noise + 0.3 * normal(3, 30, seed=2000 + seed)
        plain.append(recovered(nothing, truth, draw(3, 30, seed=0, resamples=2)).value)
        apart.append(recovered_apart(nothing, truth))
        assert recovered_apart(truth, truth) == pytest.approx(1)
    assert np.mean(plain) > 0.15
    assert abs(np.mean(apart)) < 0.05


def test_what_cannot_be_known_is_nan() -> None:
    zero, one = torch.zeros(3, 4, dtype=torch.float64), torch.ones(1, 4, dtype=torch.float64)
    found = recovered(normal(3, 4, seed=0), zero, draw(3, 4, seed=0))
    assert all(math.isnan(x) for x in (found.value, found.low, found.high))
    assert math.isnan(recovered_apart(one, one))
    assert math.isnan(recovered_apart(normal(3, 4, seed=0), zero))
    empty = mean_change(torch.zeros(3, 0, dtype=torch.float64), draw(3, 0, seed=0))
    assert math.isnan(empty.value)
    gap = mean_change(torch.tensor([[1.0, nan]], dtype=torch.float64), draw(1, 2, seed=0))
    assert math.isnan(gap.value)
    assert math.isnan(gap.low)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 4), st.integers(2, 9), st.integers(0, 10**6), st.floats(-3, 3))
def test_laws(seeds: int, prompts: int, seed: int, by: float) -> None:
    d, truth = normal(seeds, prompts, seed=seed), normal(seeds, prompts, seed=seed + 1) + 3
    other, drawn = normal(seeds, prompts, seed=seed + 2), draw(seeds, prompts, seed, resamples=50)
    one, two, both = (recovered(x, truth, drawn).value for x in (d, other, d + by * other))
    assert both == pytest.approx(one + by * two, abs=1e-9), "what is recovered adds up"
    assert recovered(3 * d, 3 * truth, drawn).low == pytest.approx(recovered(d, truth, drawn).low), "in any units"
    wide, narrow = mean_change(d, drawn, 0.99), mean_change(d, drawn, 0.5)
    assert wide.low <= narrow.low <= narrow.high <= wide.high
    assert float(d.min()) - 1e-9 <= wide.low
    assert wide.high <= float(d.max()) + 1e-9
