"""The pathways against a dense numpy reference, against autograd, and against the exact refit.

The reference is written from the definition (Ridge on the whole centred fit set, all n rows of ΔX and Δy), so that it
shares neither the factor, nor the sparse rows, nor the argument about centring with the code.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from smda_monitor.errors import ConfigError, MeasurementError
from smda_monitor.maths.pathways import (
    PolicyFrame,
    alignment,
    exact_refit,
    feature_shift,
    output_shift,
    remainder,
    score_cotangent_X,
    score_cotangent_y,
)
from smda_monitor.maths.ridge import fit_ridge
from smda_monitor.records.policy import Fingerprints, PolicyQuality, SymbolicPolicy

Array = NDArray[np.float64]
SHAPES = [(40, 9), (14, 30)]
CASES = [(shape, intercept) for shape in SHAPES for intercept in (True, False)]
ALL_CASES = pytest.mark.parametrize(("shape", "intercept"), CASES)
ALPHA = 2.0


def make_policy(X: Tensor, y: Tensor, intercept: bool, alpha: float = ALPHA) -> SymbolicPolicy:
    X = X.float()
    fit = fit_ridge(X.double(), y, alpha, intercept)
    return SymbolicPolicy(
        preset="robust" if intercept else "paper",
        alpha=alpha,
        feature_ids=tuple(range(X.shape[1])),
        coef=fit.coef,
        intercept=fit.intercept,
        has_intercept=intercept,
        X=X,
        y=y,
        fit_ids=tuple(f"p{i}" for i in range(X.shape[0])),
        coef_low=fit.coef - 1,
        coef_high=fit.coef + 1,
        quality=PolicyQuality(0.9, 0.8, 0.0, 10),
        fingerprints=Fingerprints("m", "d", "b", "p"),
    )


def example(
    shape: tuple[int, int], intercept: bool, seed: int = 0
) -> tuple[SymbolicPolicy, Tensor, Tensor, Tensor, Tensor]:
    """(policy, rows, ΔX, Δy, weights). Features with an offset, a residual that is not small, changes of every sign
    with a mean that is not 0: each term of the formulas matters."""
    rng = np.random.default_rng(seed)
    n, d = shape
    X = torch.from_numpy(np.maximum(rng.normal(0.5, 1, size=shape), 0))
    y = torch.from_numpy(X.numpy() @ rng.normal(size=d) + 3 * rng.normal(size=n) - 12)
    m = n // 2
    rows = torch.from_numpy(rng.permutation(n)[:m])
    delta_X = torch.from_numpy(rng.normal(0.3, 1, size=(m, d)))
    delta_y = torch.from_numpy(rng.normal(1, 1, size=m))
    weights = torch.from_numpy(rng.uniform(0.5, 5, size=m))
    return make_policy(X, y, intercept), rows, delta_X, delta_y, weights


class Reference:
    """The policy and its changes on the whole fit set, dense, centred by a matrix."""

    def __init__(
        self,
        policy: SymbolicPolicy,
        rows: Tensor,
        delta_X: Tensor,
        delta_y: Tensor,
        weights: Tensor,
        intercept: bool | None = None,
    ) -> None:
        self.X, self.y = policy.X.double().numpy(), policy.y.numpy()
        n, d = self.X.shape
        self.alpha = policy.alpha
        self.intercept = policy.has_intercept if intercept is None else intercept
        self.H = np.eye(n) - (np.ones((n, n)) / n if self.intercept else 0)
        self.delta_X, self.delta_y = np.zeros((n, d)), np.zeros(n)
        for j, row in enumerate(rows.tolist()):
            self.delta_X[row] = weights[j] * delta_X[j]
            self.delta_y[row] = weights[j] * delta_y[j]
        self.w = self.refit(self.X, self.y)

    def refit(self, X: Array, y: Array) -> Array:
        Xc, yc = self.H @ X, self.H @ y
        U = Xc.T @ Xc + self.alpha * np.eye(X.shape[1])
        return np.asarray(np.linalg.solve(U, Xc.T @ yc), dtype=np.float64)

    def terms(self) -> tuple[Array, Array, Array]:
        """(U⁻¹ΔXᵀr, −U⁻¹Xᵀ(ΔX w), U⁻¹XᵀΔy), everything centred."""
        Xc, yc, dXc, dyc = self.H @ self.X, self.H @ self.y, self.H @ self.delta_X, self.H @ self.delta_y
        inverse = np.linalg.inv(Xc.T @ Xc + self.alpha * np.eye(Xc.shape[1]))
        return inverse @ dXc.T @ (yc - Xc @ self.w), -inverse @ Xc.T @ (dXc @ self.w), inverse @ Xc.T @ dyc


def relative(found: Tensor, expected: Array) -> float:
    return float(np.linalg.norm(found.numpy() - expected) / np.linalg.norm(expected))


@ALL_CASES
@pytest.mark.parametrize("weighted", [True, False])
def test_equal_to_the_dense_reference(shape: tuple[int, int], intercept: bool, weighted: bool) -> None:
    policy, rows, delta_X, delta_y, weights = example(shape, intercept)
    given_weights = weights if weighted else None
    weights = weights if weighted else torch.ones_like(weights)
    reference = Reference(policy, rows, delta_X, delta_y, weights)
    frame = PolicyFrame.of(policy)
    residual, explained, output = reference.terms()
    W_X = feature_shift(frame, rows, delta_X, given_weights)
    W_Y = output_shift(frame, rows, delta_y, given_weights)
    assert relative(frame.w, reference.w) < 1e-10
    assert relative(W_X, residual + explained) < 1e-10
    assert relative(W_Y, output) < 1e-10
    assert float(W_X @ frame.w) == pytest.approx(float((residual + explained) @ reference.w), rel=1e-10)
    assert float(W_Y @ frame.w) == pytest.approx(float(output @ reference.w), rel=1e-10)
    assert relative(alignment(W_Y, frame.w), output * reference.w) < 1e-10
    # Not vacuous: without either term, with its sign turned, or with the other pathway's, the comparison fails.
    for wrong in (residual, explained, residual - explained, residual + explained + output):
        assert relative(W_X, wrong) > 1e-2
    if weighted:
        assert relative(feature_shift(frame, rows, delta_X), residual + explained) > 1e-2
        assert relative(output_shift(frame, rows, delta_y), output) > 1e-2
    other = Reference(policy, rows, delta_X, delta_y, weights, intercept=not intercept)
    residual, explained, output = other.terms()
    for found, expected in ((frame.w, other.w), (W_X, residual + explained), (W_Y, output)):
        assert relative(found, expected) > 1e-2, "with or without intercept is not the same"


@ALL_CASES
def test_scores_by_cotangent_equal_scores_by_shift(shape: tuple[int, int], intercept: bool) -> None:
    policy, rows, delta_X, delta_y, weights = example(shape, intercept)
    frame = PolicyFrame.of(policy)
    for w in (weights, None):
        by_X = float((score_cotangent_X(frame, rows, w) * delta_X).sum())
        by_y = float(score_cotangent_y(frame, rows, w) @ delta_y)
        assert by_X == pytest.approx(float(feature_shift(frame, rows, delta_X, w) @ frame.w), rel=1e-10)
        assert by_y == pytest.approx(float(output_shift(frame, rows, delta_y, w) @ frame.w), rel=1e-10)
        assert min(abs(by_X), abs(by_y)) > 1e-3, "not a comparison of zeros"


@ALL_CASES
def test_first_order_is_the_derivative_of_the_ridge_solution(shape: tuple[int, int], intercept: bool) -> None:
    """Autograd and central differences through centring and the solve: references that know no formula of ours."""
    policy, rows, delta_X, delta_y, _ = example(shape, intercept)

    def solution(changed_X: Tensor, changed_y: Tensor) -> Tensor:
        X = policy.X.double().index_add(0, rows, changed_X)
        y = policy.y.index_add(0, rows, changed_y)
        if intercept:
            X, y = X - X.mean(dim=0), y - y.mean()
        U = X.T @ X + ALPHA * torch.eye(shape[1], dtype=torch.float64)
        return torch.cholesky_solve((X.T @ y)[:, None], torch.linalg.cholesky(U))[:, 0]

    zero_X, zero_y = torch.zeros_like(delta_X), torch.zeros_like(delta_y)
    frame = PolicyFrame.of(policy)
    for dX, dy in ((delta_X, zero_y), (zero_X, delta_y), (delta_X, delta_y)):
        jvp = torch.autograd.functional.jvp
        _, tangent = jvp(solution, (zero_X, zero_y), (dX, dy))  # type: ignore[no-untyped-call]
        ours = feature_shift(frame, rows, dX) + output_shift(frame, rows, dy)
        assert relative(ours, tangent.numpy()) < 1e-9
        h = 1e-5
        central = (solution(h * dX, h * dy) - solution(-h * dX, -h * dy)) / (2 * h)
        assert relative(ours, central.numpy()) < 1e-6


@ALL_CASES
def test_exact_refit_equals_two_dense_fits(shape: tuple[int, int], intercept: bool) -> None:
    policy, rows, delta_X, delta_y, weights = example(shape, intercept)
    reference = Reference(policy, rows, delta_X, delta_y, torch.ones_like(weights))
    expected = reference.refit(reference.X + reference.delta_X, reference.y + reference.delta_y) - reference.w
    assert relative(exact_refit(policy, rows, delta_X, delta_y), expected) < 1e-10


@ALL_CASES
def test_first_order_error_falls_linearly_and_the_output_pathway_is_exact(
    shape: tuple[int, int], intercept: bool
) -> None:
    policy, rows, delta_X, delta_y, _ = example(shape, intercept)
    frame = PolicyFrame.of(policy)
    scales = (1e-1, 1e-2, 1e-3, 1e-4, 1e-6)
    errors = [
        remainder(exact_refit(policy, rows, s * delta_X, 0 * delta_y), feature_shift(frame, rows, s * delta_X))
        for s in scales
    ]
    for i in (2, 3, 4):
        assert errors[i] / errors[i - 1] == pytest.approx(scales[i] / scales[i - 1], rel=0.15)
    assert errors[0] > 1e-3, "at scale 0.1 the two really differ"
    for s in (100.0, 1.0, 1e-6):
        exact = exact_refit(policy, rows, 0 * delta_X, s * delta_y)
        assert remainder(exact, output_shift(frame, rows, s * delta_y)) < 1e-12
    both = exact_refit(policy, rows, 1e-4 * delta_X, 1e-4 * delta_y)
    first = feature_shift(frame, rows, 1e-4 * delta_X) + output_shift(frame, rows, 1e-4 * delta_y)
    assert remainder(both, first) < 1e-2


def test_remainder_on_constructed_truth() -> None:
    exact = torch.tensor([3.0, 4.0], dtype=torch.float64)
    assert remainder(exact, torch.zeros_like(exact)) == 1.0
    assert remainder(exact, exact) == 0.0
    assert np.isnan(remainder(torch.zeros_like(exact), exact))


def test_constructed_truth_by_hand() -> None:
    """One feature, two prompts, no intercept: x = (1, 2), y = (1, 3), alpha = 5, so U = 10, w = 0.7, r = (0.3, 1.6)."""
    policy = make_policy(torch.tensor([[1.0], [2.0]]), torch.tensor([1.0, 3.0], dtype=torch.float64), False, alpha=5.0)
    frame, rows = PolicyFrame.of(policy), torch.tensor([1])
    one = torch.ones(1, dtype=torch.float64)
    assert float(frame.w) == pytest.approx(0.7)
    assert float(output_shift(frame, rows, one)) == pytest.approx(2 / 10)
    assert float(feature_shift(frame, rows, one[:, None])) == pytest.approx((1.6 - 2 * 0.7) / 10)
    assert float(output_shift(frame, rows, one) @ frame.w) == pytest.approx(0.14)
    assert float(exact_refit(policy, rows, one[:, None], one)) == pytest.approx((1 + 3 * 4) / 15 - 0.7)


laws = settings(max_examples=40, deadline=None)
case = st.sampled_from(CASES)
numbers = st.floats(-10, 10, allow_nan=False)


@laws
@given(case=case, a=numbers, b=numbers, seed=st.integers(0, 50))
def test_law_linearity(case: tuple[tuple[int, int], bool], a: float, b: float, seed: int) -> None:
    policy, rows, X1, y1, weights = example(*case, seed=seed)
    X2, y2 = X1.flip(0) * 0.7, y1.flip(0) - 2
    frame = PolicyFrame.of(policy)

    def f(dX: Tensor, dy: Tensor) -> Tensor:
        return torch.stack([feature_shift(frame, rows, dX, weights), output_shift(frame, rows, dy, weights)])

    combined = a * f(X1, y1) + b * f(X2, y2)
    scale = 1 + float((abs(a) * f(X1, y1).abs() + abs(b) * f(X2, y2).abs()).max())
    assert float((f(a * X1 + b * X2, a * y1 + b * y2) - combined).abs().max()) < 1e-10 * scale


@laws
@given(case=case, seed=st.integers(0, 50), order=st.randoms(use_true_random=False))
def test_law_the_order_of_rows_does_not_matter(case: tuple[tuple[int, int], bool], seed: int, order: object) -> None:
    """Neither that of the measured rows nor that of the fit set; cotangents move along with their rows."""
    policy, rows, delta_X, delta_y, weights = example(*case, seed=seed)
    n = policy.X.shape[0]
    generator = torch.Generator().manual_seed(order.randint(0, 10**6))  # type: ignore[attr-defined]
    measured, fit = torch.randperm(len(rows), generator=generator), torch.randperm(n, generator=generator)
    moved = make_policy(policy.X[fit], policy.y[fit], policy.has_intercept)
    where = torch.argsort(fit)[rows][measured]
    one, two = PolicyFrame.of(policy), PolicyFrame.of(moved)
    dX, dy, w = delta_X[measured], delta_y[measured], weights[measured]
    assert torch.allclose(feature_shift(one, rows, delta_X, weights), feature_shift(two, where, dX, w), atol=1e-10)
    assert torch.allclose(output_shift(one, rows, delta_y, weights), output_shift(two, where, dy, w), atol=1e-10)
    G, H = score_cotangent_X(one, rows, weights), score_cotangent_X(two, where, w)
    assert torch.allclose(G[measured], H, atol=1e-10)
    assert torch.allclose(exact_refit(policy, rows, delta_X, delta_y), exact_refit(moved, where, dX, dy), atol=1e-9)


@laws
@given(case=case, seed=st.integers(0, 50))
def test_law_unmeasured_rows_count_as_unchanged(case: tuple[tuple[int, int], bool], seed: int) -> None:
    policy, rows, delta_X, delta_y, weights = example(*case, seed=seed)
    n, d = policy.X.shape
    frame, everything = PolicyFrame.of(policy), torch.arange(n)
    whole_X = torch.zeros(n, d, dtype=torch.float64).index_add(0, rows, weights[:, None] * delta_X)
    whole_y = torch.zeros(n, dtype=torch.float64).index_add(0, rows, weights * delta_y)
    assert torch.allclose(
        feature_shift(frame, rows, delta_X, weights), feature_shift(frame, everything, whole_X), atol=1e-10
    )
    assert torch.allclose(
        output_shift(frame, rows, delta_y, weights), output_shift(frame, everything, whole_y), atol=1e-10
    )
    nothing = torch.zeros_like(weights)
    assert float(feature_shift(frame, rows, delta_X, nothing).abs().max()) == 0
    assert float(score_cotangent_X(frame, rows, nothing).abs().max()) == 0


@laws
@given(shape=st.sampled_from(SHAPES), seed=st.integers(0, 50), offset=st.floats(-20, 20))
def test_law_centring_comes_by_itself(shape: tuple[int, int], seed: int, offset: float) -> None:
    """With an intercept a change common to the whole fit set moves nothing; without one it does."""
    for intercept in (True, False):
        policy, *_ = example(shape, intercept, seed=seed)
        n, d = shape
        frame, everything = PolicyFrame.of(policy), torch.arange(n)
        y_moved = output_shift(frame, everything, torch.full((n,), offset, dtype=torch.float64))
        step = torch.linspace(-1, 2, d, dtype=torch.float64) * offset
        X_moved = feature_shift(frame, everything, step.expand(n, d))
        if intercept:
            assert float(frame.r.sum().abs()) < 1e-9
            assert float(frame.Xc.sum(0).abs().max()) < 1e-9
            assert float(y_moved.abs().max()) < 1e-10 * (1 + abs(offset))
            assert float(X_moved.abs().max()) < 1e-9 * (1 + abs(offset))
        elif abs(offset) > 0.1:
            assert float(y_moved.abs().max()) > 1e-6
            assert float(X_moved.abs().max()) > 1e-6


def test_many_changes_of_y_at_once() -> None:
    policy, rows, _, delta_y, weights = example((14, 30), True)
    frame = PolicyFrame.of(policy)
    batch = torch.stack([delta_y, -2 * delta_y, delta_y.flip(0)]).reshape(3, 1, -1)
    together = output_shift(frame, rows, batch, weights)
    assert together.shape == (3, 1, 30)
    for i in range(3):
        assert torch.allclose(together[i, 0], output_shift(frame, rows, batch[i, 0], weights), atol=1e-12)


def test_float32_changes_are_taken_in_float64() -> None:
    policy, rows, delta_X, delta_y, _ = example((40, 9), True)
    frame = PolicyFrame.of(policy)
    assert feature_shift(frame, rows, delta_X.float()).dtype == torch.float64
    assert torch.equal(
        feature_shift(frame, rows, delta_X.float()), feature_shift(frame, rows, delta_X.float().double())
    )
    assert exact_refit(policy, rows, delta_X.float(), delta_y.float()).dtype == torch.float64


def test_columns_in_another_order_are_refused() -> None:
    policy, rows, delta_X, delta_y, _ = example((40, 9), True)
    swapped = {name: getattr(policy, name) for name in policy.__dataclass_fields__} | {"coef": policy.coef.flip(0)}
    with pytest.raises(ConfigError, match="optimality gap"):
        PolicyFrame.of(SymbolicPolicy(**swapped))
    with pytest.raises(MeasurementError, match="change on the probes"):
        exact_refit(policy, rows, delta_X * float("nan"), delta_y)
