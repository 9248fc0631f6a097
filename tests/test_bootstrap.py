"""Intervals against a replay of the same draws with scikit-learn and against distributions that are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import binom, norm
from sklearn.metrics import r2_score

from smda_monitor.maths.bootstrap import RESAMPLES, estimate, mean, r2
from smda_monitor.maths.ridge import r_squared
from smda_monitor.records.policy_findings import Estimate

NAN = float("nan")


def sample(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_share_has_the_quantiles_of_the_binomial_distribution() -> None:
    right = torch.tensor([1.0] * 30 + [0.0] * 10, dtype=torch.float64)
    found = estimate(mean, right, seed=0)
    assert found.value == 0.75
    for end, quantile in ((found.low, 0.025), (found.high, 0.975)):
        assert abs(end * 40 - binom.ppf(quantile, 40, 0.75)) <= 1


@pytest.mark.parametrize("sizes", [(400,), (300, 200)])
def test_a_mean_or_a_difference_has_the_normal_interval(sizes: tuple[int, ...]) -> None:
    samples = [sample(n, seed) * (seed + 1) for seed, n in enumerate(sizes)]
    found = estimate(mean, *samples, seed=1)
    expected = float(samples[0].mean()) - sum(float(s.mean()) for s in samples[1:])
    half = norm.ppf(0.975) * math.sqrt(sum(float(s.var()) / len(s) for s in samples))
    assert found.value == pytest.approx(expected)
    assert found.low == pytest.approx(expected - half, abs=0.12 * half)
    assert found.high == pytest.approx(expected + half, abs=0.12 * half)


def test_r2_equals_scikit_learn_on_every_resample() -> None:
    y = sample(25)
    prediction = 0.7 * y + 0.4 * sample(25, 1)
    found = estimate(r2, y, prediction, seed=5, paired=True)
    draws = np.random.default_rng(5).integers(0, 25, (RESAMPLES, 25))
    scores = [r2_score(y.numpy()[draw], prediction.numpy()[draw]) for draw in draws]
    assert found.value == pytest.approx(r_squared(y, prediction), abs=1e-12)
    assert found.low == pytest.approx(np.quantile(scores, 0.025), abs=1e-10)
    assert found.high == pytest.approx(np.quantile(scores, 0.975), abs=1e-10)
    assert estimate(r2, y, prediction, seed=5).low < found.low - 0.5, "drawn apart they have nothing in common"


def test_it_is_seeded_and_leaves_the_global_state_alone() -> None:
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index, union-attr]
    first, second, other = (estimate(mean, sample(12), seed=seed) for seed in (3, 3, 4))
    assert first == second
    assert (first.low, first.high) != (other.low, other.high)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)  # type: ignore[index, arg-type]


def test_too_few_prompts_have_no_interval() -> None:
    one = estimate(mean, torch.tensor([0.3], dtype=torch.float64), seed=0)
    assert one.value == 0.3
    assert math.isnan(one.low)
    assert math.isnan(one.high)
    empty = estimate(mean, sample(4), torch.zeros(0, dtype=torch.float64), seed=0)
    assert all(math.isnan(part) for part in (empty.value, empty.low, empty.high))


def test_what_does_not_vary_has_an_interval_without_width_and_r2_none() -> None:
    still = torch.full((5,), 0.25, dtype=torch.float64)
    assert estimate(mean, still, seed=0) == Estimate(0.25, 0.25, 0.25)
    flat = estimate(r2, still, sample(5), seed=0, paired=True)
    assert all(math.isnan(part) for part in (flat.value, flat.low, flat.high))


@pytest.mark.parametrize(
    ("low", "high", "apart"),
    [(2.1, 3.0, True), (-3.0, 0.9, True), (2.0, 3.0, False), (0.0, 5.0, False), (NAN, NAN, False)],
)
def test_intervals_apart(low: float, high: float, apart: bool) -> None:
    fixed, other = Estimate(1.5, 1.0, 2.0), Estimate(0.0, low, high)
    assert fixed.apart(other) is apart
    assert other.apart(fixed) is apart
