"""Held-out fidelity against scikit-learn, and on a constructed truth that the intercept decides."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from made_policies import made_policy
from sklearn.linear_model import Ridge
from sklearn.metrics import accuracy_score, r2_score
from torch import Tensor

from smda_monitor.maths.policy_fidelity import heldout_fidelity
from smda_monitor.maths.ridge import fit_ridge
from smda_monitor.records.policy import SymbolicPolicy

D = 6
TRUTH = torch.tensor([3.0, -2.0, 1.5, 0.0, 0.5, -1.0], dtype=torch.float64)


def data(n: int, seed: int, offset: float = -7.0, noise: float = 0.5) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    X = torch.randn(n, D, generator=g)
    y = X.double() @ TRUTH + offset + noise * torch.randn(n, generator=g, dtype=torch.float64)
    return X, y


def fitted(intercept: bool, offset: float = -7.0, alpha: float = 2.0) -> SymbolicPolicy:
    X, y = data(120, 1, offset)
    fit = fit_ridge(X.double(), y, alpha, intercept)
    return replace(
        made_policy(fit.coef, fit.intercept), X=X, y=y, alpha=alpha, has_intercept=intercept, intercept=fit.intercept
    )


@pytest.mark.parametrize("intercept", [True, False])
def test_equal_to_scikit_learn(intercept: bool) -> None:
    policy, (X, y) = fitted(intercept), data(80, 2)
    threshold = -7.5
    found = heldout_fidelity(policy, X, y, threshold, seed=0)
    assert (found.prompts, found.threshold) == (80, threshold)
    assert [(v.intercept, v.is_policy) for v in found.variants] == [(intercept, True), (not intercept, False)]
    side = y.numpy() > threshold
    majority = max(side.mean(), 1 - side.mean())
    assert found.majority.value == pytest.approx(majority)
    for variant in found.variants:
        theirs = Ridge(alpha=2.0, fit_intercept=variant.intercept).fit(policy.X.double().numpy(), policy.y.numpy())
        prediction = theirs.predict(X.double().numpy())
        assert variant.r2.value == pytest.approx(r2_score(y.numpy(), prediction), abs=1e-8)
        accuracy = accuracy_score(side, prediction > threshold)
        assert variant.accuracy.value == pytest.approx(accuracy)
        assert variant.over_majority.value == pytest.approx(accuracy - majority)
        for estimate in (variant.r2, variant.accuracy, variant.over_majority):
            assert estimate.low <= estimate.value <= estimate.high


def test_the_baselines_need_no_features() -> None:
    policy, (X, y) = fitted(True), data(80, 2)
    found = heldout_fidelity(policy, X, y, -7.0, seed=0)
    again = heldout_fidelity(policy, torch.zeros_like(X), y, -7.0, seed=0)
    assert (found.r2_constant, found.majority) == (again.r2_constant, again.majority)
    constant = policy.y.mean().expand_as(y).numpy()
    assert found.r2_constant.value == pytest.approx(r2_score(y.numpy(), constant))
    assert found.r2_constant.value <= 0
    assert found.variants[0].r2 != again.variants[0].r2, "the policy does need them"


def test_with_y_far_from_0_only_the_intercept_beats_the_baselines() -> None:
    X, y = data(200, 3)
    with_one, without = heldout_fidelity(fitted(True), X, y, -7.0, seed=0).variants
    assert with_one.r2.low > 0.9
    assert with_one.over_majority.low > 0.2
    assert without.r2.high < 0
    assert without.over_majority.value <= 0.1


def test_without_an_offset_both_are_alike() -> None:
    X, y = data(200, 3, offset=0.0)
    with_one, without = heldout_fidelity(fitted(True, offset=0.0), X, y, 0.0, seed=0).variants
    assert with_one.r2.value == pytest.approx(without.r2.value, abs=0.01)
    assert without.over_majority.low > 0.2


def test_noise_beats_nothing() -> None:
    policy, (X, y) = fitted(True), data(80, 2)
    shuffled = y[torch.randperm(80, generator=torch.Generator().manual_seed(0))]
    variant = heldout_fidelity(policy, X, shuffled, -7.0, seed=0).variants[0]
    assert variant.over_majority.low < 0.05
    assert variant.r2.value < 0
