"""The Ridge fit against scikit-learn, the factor against dense numpy, and the intercept that must not be forgotten."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from torch import Tensor

from smda_monitor.errors import ConfigError, MeasurementError
from smda_monitor.maths.ridge import (
    ALPHAS,
    RidgeFactor,
    RidgeFit,
    bootstrap_coef,
    choose_alpha,
    fit_ridge,
    predict,
    r_squared,
)

PRIMAL, DUAL = (60, 12), (20, 50)
BOTH_FORMS = pytest.mark.parametrize("shape", [PRIMAL, DUAL, (25, 25)], ids=["primal", "dual", "square"])
BOTH_INTERCEPTS = pytest.mark.parametrize("intercept", [True, False])


def data(shape: tuple[int, int], seed: int = 0) -> tuple[Tensor, Tensor]:
    """Sparse, non-negative features of very different sizes, and y around −12, as refusal log-probabilities are."""
    rng = np.random.default_rng(seed)
    X = np.maximum(rng.normal(size=shape), 0) * rng.uniform(0.1, 5, size=shape[1])
    y = X @ rng.normal(size=shape[1]) + rng.normal(size=shape[0]) - 12
    return torch.from_numpy(X), torch.from_numpy(y)


def close(found: Tensor, expected: np.ndarray, tolerance: float) -> bool:
    scale = max(1.0, float(np.abs(expected).max()))
    return bool(np.abs(found.numpy() - expected).max() <= tolerance * scale)


@BOTH_FORMS
@BOTH_INTERCEPTS
@pytest.mark.parametrize("alpha", [0.01, 5.0, 1000.0])
def test_equal_to_scikit_learn(shape: tuple[int, int], intercept: bool, alpha: float) -> None:
    X, y = data(shape)
    ours = fit_ridge(X, y, alpha, intercept)
    theirs = Ridge(alpha=alpha, fit_intercept=intercept, solver="svd").fit(X.numpy(), y.numpy())
    assert close(ours.coef, theirs.coef_, 1e-10)
    assert ours.intercept == pytest.approx(float(theirs.intercept_), abs=1e-10)
    assert close(predict(ours, X), theirs.predict(X.numpy()), 1e-10)


def test_the_comparison_can_fail() -> None:
    X, y = data(PRIMAL)
    with_one, without = fit_ridge(X, y, 5.0, True), fit_ridge(X, y, 5.0, False)
    assert not close(with_one.coef, without.coef.numpy(), 1e-2)
    assert not close(with_one.coef, fit_ridge(X, y, 5.1, True).coef.numpy(), 1e-4)
    assert without.intercept == 0.0


@BOTH_FORMS
@BOTH_INTERCEPTS
def test_factor_equals_dense_solve(shape: tuple[int, int], intercept: bool) -> None:
    X, _ = data(shape)
    n, d = shape
    factor = RidgeFactor(X, 5.0, intercept)
    Xc = X.numpy() - (X.numpy().mean(axis=0) if intercept else 0)
    U = Xc.T @ Xc + 5.0 * np.eye(d)
    rng = np.random.default_rng(1)
    assert factor.dual is (d > n)
    for right in (rng.normal(size=d), rng.normal(size=(d, 3)), rng.normal(size=(d, 2, 3))):
        expected = np.linalg.solve(U, right.reshape(d, -1)).reshape(right.shape)
        assert close(factor.solve(torch.from_numpy(right)), expected, 1e-10)
    for rows in (rng.normal(size=n), rng.normal(size=(n, 3))):
        assert close(factor.solve_rows(torch.from_numpy(rows)), np.linalg.solve(U, Xc.T @ rows), 1e-10)
    assert close(factor.Xc, Xc, 1e-15)


@BOTH_FORMS
def test_solve_rows_keeps_digits_at_a_tiny_alpha(shape: tuple[int, int]) -> None:
    X, y = data(shape)
    theirs = Ridge(alpha=1e-6, fit_intercept=False, solver="svd").fit(X.numpy(), y.numpy())
    assert close(RidgeFactor(X, 1e-6, False).solve_rows(y), theirs.coef_, 1e-6)


def test_mistake_5_the_intercept_matters() -> None:
    """y around −12 on features without a common offset: worse than a constant without an intercept."""
    generator = torch.Generator().manual_seed(3)
    X = torch.randn(400, 20, generator=generator, dtype=torch.float64)
    y = X @ torch.randn(20, generator=generator, dtype=torch.float64) / 4 - 12
    y = y + torch.randn(400, generator=generator, dtype=torch.float64)
    fit, held = slice(0, 200), slice(200, 400)
    quality = {
        intercept: r_squared(y[held], predict(fit_ridge(X[fit], y[fit], 5.0, intercept), X[held]))
        for intercept in (True, False)
    }
    assert quality[False] < 0
    assert quality[True] > 0.3


def test_r_squared_on_constructed_truth() -> None:
    y = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    assert r_squared(y, y) == 1.0
    assert r_squared(y, torch.full_like(y, 2.5)) == 0.0
    assert r_squared(y, y.flip(0)) == pytest.approx(-3.0)
    assert np.isnan(r_squared(torch.ones_like(y), y))


def test_predict_takes_single_prompts_and_float32() -> None:
    fit = RidgeFit(torch.tensor([1.0, -2.0], dtype=torch.float64), 0.5)
    assert float(predict(fit, torch.tensor([3.0, 1.0]))) == 1.5
    assert predict(fit, torch.zeros(2, 3, 2)).shape == (2, 3)


def test_choose_alpha_minimises_the_leave_one_out_error() -> None:
    X, y = data((30, 12), seed=4)
    errors = []
    for alpha in ALPHAS:  # written out: thirty fits per penalty
        keep = [torch.arange(30) != i for i in range(30)]
        left = [predict(fit_ridge(X[k], y[k], alpha, True), X[~k]) - y[~k] for k in keep]
        errors.append(float(torch.cat(left).square().mean()))
    best = ALPHAS[int(np.argmin(errors))]
    assert ALPHAS[0] < best < ALPHAS[-1], "the optimum lies inside the grid"
    assert choose_alpha(X, y) == best
    assert np.allclose(ALPHAS, np.logspace(-2, 5, 29))


@BOTH_FORMS
@BOTH_INTERCEPTS
def test_bootstrap_equals_refitting_by_scikit_learn(shape: tuple[int, int], intercept: bool) -> None:
    X, y = data(shape)
    low, high = bootstrap_coef(X, y, 2.0, intercept, 15, 7)
    generator, n, coefs = torch.Generator().manual_seed(7), shape[0], []
    for _ in range(15):
        idx = torch.randint(n, (n,), generator=generator).numpy()
        coefs.append(Ridge(alpha=2.0, fit_intercept=intercept, solver="svd").fit(X.numpy()[idx], y.numpy()[idx]).coef_)
    expected = np.quantile(np.stack(coefs), [0.025, 0.975], axis=0)
    assert close(low, expected[0], 1e-8)
    assert close(high, expected[1], 1e-8)
    assert bool((low < high).all())


def test_bootstrap_is_deterministic_and_leaves_the_global_generator_alone() -> None:
    X, y = data(PRIMAL)
    before = torch.get_rng_state()
    first, second, other = (bootstrap_coef(X, y, 2.0, True, 10, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first[0], second[0])
    assert not torch.equal(first[0], other[0])
    assert all(bool(bound.isnan().all()) for bound in bootstrap_coef(X, y, 2.0, True, 0, 1))


def test_bootstrap_covers_the_truth_about_95_percent_of_the_time() -> None:
    generator = torch.Generator().manual_seed(5)
    truth = torch.randn(60, generator=generator, dtype=torch.float64)
    X = torch.randn(900, 60, generator=generator, dtype=torch.float64)
    y = X @ truth + torch.randn(900, generator=generator, dtype=torch.float64)
    low, high = bootstrap_coef(X, y, 0.1, True, 200, 0)
    assert 0.8 <= float(((low <= truth) & (truth <= high)).double().mean()) < 1.0


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan"), float("inf")])
def test_alpha_must_be_positive(alpha: float) -> None:
    with pytest.raises(ConfigError, match="alpha"):
        fit_ridge(*data(PRIMAL), alpha, True)


def test_bad_data_is_named() -> None:
    X, y = data(PRIMAL)
    with pytest.raises(MeasurementError, match="NaN or Inf on 1 prompts"):
        fit_ridge(X.index_fill(0, torch.tensor([3]), float("nan")), y, 1.0, True)
    with pytest.raises(MeasurementError, match="behaviour y: found NaN or Inf on 1"):
        fit_ridge(X, y.index_fill(0, torch.tensor([3]), float("inf")), 1.0, True)
    with pytest.raises(ConfigError, match="at least one of each"):
        fit_ridge(X[:, :0], y, 1.0, True)
    with pytest.raises(MeasurementError, match="positive definite"):
        RidgeFactor(torch.ones(3, 2, dtype=torch.float64) * 1e12, 1e-6, False)
