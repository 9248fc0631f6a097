"""Ridge regression in closed form, float64: the symbolic policy's fit and the factor behind every policy shift.

    w = argmin ‖yc − Xc w‖² + alpha‖w‖² = U⁻¹ Xcᵀ yc,   U = Xcᵀ Xc + alpha·I,   b = ȳ − x̄·w

With an intercept Xc, yc are X, y less their means over the fit set; without one they are X, y themselves and b = 0. The
objective is scikit-learn's (no 1/n, no factor ½, the intercept is not penalised). The paper fits without an intercept
and alpha = 5 (arXiv 2606.29171); with y around −12 that can do worse than a constant, so the robust preset has one.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ..errors import ConfigError, MeasurementError, describe
from ..records.policy import SymbolicPolicy

ALPHAS = tuple(10.0 ** (k / 4) for k in range(-8, 21))
"""Penalties tried by `choose_alpha`: 0.01 to 100,000, four per decade."""


@dataclass(frozen=True, slots=True)
class RidgeFit:
    """A fitted Ridge regression."""

    coef: Tensor
    """(d,) w; float64; units of y per unit of the feature."""
    intercept: float
    """b, units of y; exactly 0 where none was fitted."""


class RidgeFactor:
    """U = Xcᵀ Xc + alpha·I, factored once (Cholesky, float64) and solved against many times.

    Primal form, (d, d), where d ≤ n. Otherwise the dual form, (n, n), with K = Xc Xcᵀ + alpha·I:

        U⁻¹ V = (V − Xcᵀ K⁻¹ Xc V) / alpha,   U⁻¹ Xcᵀ v = Xcᵀ K⁻¹ v

    Raises `ConfigError` for alpha ≤ 0 or an empty X, `MeasurementError` for NaN or Inf in X or a U that is singular in
    float64.
    """

    def __init__(self, X: Float64[Tensor, "n d"], alpha: float, intercept: bool) -> None:
        if not (isfinite(alpha) and alpha > 0):
            raise ConfigError(describe("alpha of the Ridge penalty", alpha, "a finite number above 0", "set alpha > 0"))
        if X.numel() == 0:
            found = f"{X.shape[0]} prompts and {X.shape[1]} features"
            raise ConfigError(describe("data to fit", found, "at least one of each", "widen the fit set or features"))
        if not bool(torch.isfinite(X).all()):
            bad = int((~torch.isfinite(X)).any(dim=1).sum())
            raise MeasurementError(describe("features", f"NaN or Inf on {bad} prompts", "finite values", _REMEASURE))
        self.alpha = alpha
        self.mean: Tensor = X.mean(dim=0) if intercept else X.new_zeros(X.shape[1])
        """(d,) x̄, subtracted from every row; zeros without an intercept."""
        self.Xc: Tensor = X - self.mean if intercept else X
        """(n, d) X as it enters U."""
        self.dual = X.shape[1] > X.shape[0]
        """True where the (n, n) form is in use."""
        gram = self.Xc @ self.Xc.T if self.dual else self.Xc.T @ self.Xc
        gram.diagonal().add_(alpha)
        self._lower, info = torch.linalg.cholesky_ex(gram)
        if int(info) != 0:
            raise MeasurementError(
                describe("the Ridge system", f"not positive definite at alpha {alpha:g}", "a solvable one", _RAISE)
            )

    def solve(self, V: Float64[Tensor, " d *k"]) -> Float64[Tensor, " d *k"]:
        """U⁻¹ V."""
        flat = V.reshape(V.shape[0], -1)
        if self.dual:
            flat = (flat - self.Xc.T @ torch.cholesky_solve(self.Xc @ flat, self._lower)) / self.alpha
        else:
            flat = torch.cholesky_solve(flat, self._lower)
        return flat.reshape(V.shape)

    def solve_rows(self, v: Float64[Tensor, " n *k"]) -> Float64[Tensor, " d *k"]:
        """U⁻¹ Xcᵀ v. The dual form is taken directly, without the difference in `solve` that costs digits."""
        flat = v.reshape(v.shape[0], -1)
        if self.dual:
            flat = self.Xc.T @ torch.cholesky_solve(flat, self._lower)
        else:
            flat = torch.cholesky_solve(self.Xc.T @ flat, self._lower)
        return flat.reshape(-1, *v.shape[1:])


def fit_ridge(X: Float64[Tensor, "n d"], y: Float64[Tensor, " n"], alpha: float, intercept: bool) -> RidgeFit:
    """argmin over w, b of ‖y − Xw − b‖² + alpha‖w‖²; b = 0 where `intercept` is false.

    Equal to scikit-learn's ``Ridge(alpha, fit_intercept=intercept)``. Raises as `RidgeFactor`, `ConfigError` where X
    and y disagree in length and `MeasurementError` for NaN or Inf in y.
    """
    _check_y(X, y)
    factor = RidgeFactor(X, alpha, intercept)
    y_mean = float(y.mean()) if intercept else 0.0
    coef = factor.solve_rows(y - y_mean)
    return RidgeFit(coef, y_mean - float(factor.mean @ coef) if intercept else 0.0)


def choose_alpha(
    X: Float64[Tensor, "n d"], y: Float64[Tensor, " n"], weight: Float64[Tensor, " n"] | None = None
) -> float:
    """The penalty of `ALPHAS` with the smallest leave-one-out squared error of a fit with an intercept, by
    scikit-learn's ``RidgeCV``; `weight` of each prompt (None: the same). One at either end means that the grid is too
    narrow. Raises `ConfigError` where X and y disagree in length, `MeasurementError` for NaN or Inf in y."""
    _check_y(X, y)
    from sklearn.linear_model import RidgeCV

    weights = None if weight is None else weight.numpy()
    return float(RidgeCV(alphas=ALPHAS).fit(X.numpy(), y.numpy(), sample_weight=weights).alpha_)


def bootstrap_coef(
    X: Float64[Tensor, "n d"], y: Float64[Tensor, " n"], alpha: float, intercept: bool, resamples: int, seed: int
) -> tuple[Float64[Tensor, " d"], Float64[Tensor, " d"]]:
    """The 2.5 % and 97.5 % quantiles of each coefficient over fits on prompts drawn with replacement, alpha kept.

    Returns (low, high), each (d,); NaN throughout where `resamples` is 0: not measured. The generator is private to the
    call. With d > n one Gram matrix K = XXᵀ serves every resample. A prompt drawn c times counts as one row scaled by
    s = √c, so (ssᵀ∘Kc + alpha·I) a = s∘yc, Kc and yc centred by their c-weighted means, and w = Σ_i s_i a_i x_i over
    the prompts drawn; no centring of x is needed, as sᵀa = 0.
    """
    _check_y(X, y)
    n, d = X.shape
    if resamples == 0:
        return X.new_full((d,), float("nan")), X.new_full((d,), float("nan"))
    generator = torch.Generator().manual_seed(seed)
    draws = [torch.randint(n, (n,), generator=generator) for _ in range(resamples)]
    if d <= n:
        coefs = torch.stack([fit_ridge(X[idx], y[idx], alpha, intercept).coef for idx in draws], dim=1)
    else:
        RidgeFactor(X, alpha, intercept)  # the same checks of X and alpha as the primal form
        gram = X @ X.T
        dual = X.new_zeros(n, resamples)
        for k, idx in enumerate(draws):
            count = torch.bincount(idx, minlength=n).double()
            drawn = count.nonzero()[:, 0]
            c = count[drawn]
            s, K, target = c.sqrt(), gram[drawn][:, drawn], y[drawn]
            if intercept:
                mean = K @ c / n
                K = K - mean - mean[:, None] + mean @ c / n
                target = target - target @ c / n
            K = s[:, None] * K * s
            K.diagonal().add_(alpha)
            a = torch.cholesky_solve((s * target)[:, None], torch.linalg.cholesky(K))[:, 0]
            dual[drawn, k] = s * a
        coefs = X.T @ dual
    # torch.quantile refuses very large inputs, so features go by blocks.
    quantiles = [torch.quantile(block, block.new_tensor([0.025, 0.975]), dim=1) for block in torch.split(coefs, 4096)]
    low, high = torch.cat(quantiles, dim=1)
    return low, high


def r_squared(y: Float64[Tensor, " n"], prediction: Float64[Tensor, " n"]) -> float:
    """1 − Σ(y − prediction)² / Σ(y − ȳ)²; 1 is perfect, a constant has 0 or less; NaN where y does not vary."""
    total = float((y - y.mean()).square().sum())
    return 1.0 - float((y - prediction).square().sum()) / total if total > 0 else float("nan")


def predict(policy: SymbolicPolicy | RidgeFit, X: Float[Tensor, "*m d"]) -> Float64[Tensor, "*m"]:
    """X w + b, units of y."""
    return X.double() @ policy.coef.double() + policy.intercept


def optimality_gap(policy: SymbolicPolicy) -> float:
    """‖Xcᵀ(yc − Xc w) − alpha·w‖ / ‖Xcᵀ yc‖ ≥ 0: how far w is from the Ridge solution of the policy's own X and y.

    About 1e-15 for a coefficient vector fitted on the X that is kept, order 1 where columns or rows do not belong
    together. Every policy shift rests on it being 0. Costs two products with X.
    """
    X, y, w = policy.X.double(), policy.y.double(), policy.coef.double()
    if policy.has_intercept:
        X, y = X - X.mean(dim=0), y - y.mean()
    gap = float((X.T @ (y - X @ w) - policy.alpha * w).norm())
    scale = float((X.T @ y).norm())
    return 0.0 if gap == 0 else gap / scale if scale > 0 else float("inf")


_REMEASURE = "measure again; if it persists, look for NaN in the model's weights or activations"
_RAISE = "raise alpha, or drop features of extreme size"


def _check_y(X: Tensor, y: Tensor) -> None:
    if X.shape[0] != y.shape[0]:
        found = f"{X.shape[0]} rows of X and {y.shape[0]} values of y"
        raise ConfigError(describe("data to fit", found, "one y per row", "measure X and y on the same prompts"))
    if not bool(torch.isfinite(y).all()):
        bad = int((~torch.isfinite(y)).sum())
        raise MeasurementError(describe("behaviour y", f"NaN or Inf on {bad} prompts", "finite values", _REMEASURE))
