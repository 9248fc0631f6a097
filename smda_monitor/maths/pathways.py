"""The two pathways by which a change on the probes shifts a fixed symbolic policy (arXiv 2606.29171), and the refit.

    ΔW_Y = U⁻¹ Xcᵀ Δy                          output-probability pathway: exact, Ridge is linear in y
    ΔW_X = U⁻¹ [ΔXᵀ r − Xcᵀ(ΔX w)]             feature-activation pathway: first order in ΔX;  r = yc − Xc w
    S    = Σ_k ΔW_k w_k                        pair score: > 0 reinforces the policy, < 0 erodes it

Both are linear in (ΔX, Δy), so with q = U⁻¹ w the scores are inner products, S_Y = ⟨Xc q, Δy⟩ and
S_X = ⟨r qᵀ − (Xc q) wᵀ, ΔX⟩, and those cotangents are what a backward pass through the model starts from.

The measured probes are m rows of the n-row fit set, at `rows`; fit rows that were not measured count as unchanged.
`weights` (m,) ≥ 0 let a measured probe stand for others of its stratum: Δ of row j is multiplied by weights_j.
Default: 1.

Centring. With an intercept the formulas ask for ΔXc = ΔX − 1·mean(ΔX) and Δyc = Δy − mean(Δy) over the fit set. The
means drop out by themselves: Xcᵀ1 = 0, hence Xcᵀ Δyc = Xcᵀ Δy and Xcᵀ(ΔXc w) = Xcᵀ(ΔX w) − Xcᵀ1 (mean(ΔX)·w) =
Xcᵀ(ΔX w); and rᵀ1 = 0 (yc and Xc both have zero column sums), hence ΔXcᵀ r = ΔXᵀ r − mean(ΔX)ᵀ(1ᵀr) = ΔXᵀ r. So a
change can be given on the measured rows alone, whatever happens to the mean.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from ..errors import ConfigError, MeasurementError, describe
from ..records.policy import SymbolicPolicy
from .ridge import RidgeFactor, optimality_gap

GAP_LIMIT = 1e-3
"""Largest `optimality_gap` of a policy whose shifts are computed: far above float32 rounding, far below a mix-up."""


@dataclass(frozen=True, slots=True)
class PolicyFrame:
    """What every shift of one fixed policy needs, computed once; all float64."""

    factor: RidgeFactor
    """U, factored."""
    Xc: Tensor
    """(n, d) the fit set's features, centred where the policy has an intercept."""
    w: Tensor
    """(d,) the policy's coefficients."""
    r: Tensor
    """(n,) yc − Xc w, the policy's residual on its fit set; sums to 0 with an intercept."""
    q: Tensor
    """(d,) U⁻¹ w."""
    Xq: Tensor
    """(n,) Xc q."""

    @classmethod
    def of(cls, policy: SymbolicPolicy) -> PolicyFrame:
        """The frame of `policy`. Raises `ConfigError` where its coefficients do not solve its own X and y."""
        gap = optimality_gap(policy)
        if not gap <= GAP_LIMIT:
            raise ConfigError(
                describe(
                    "optimality gap of the policy's coefficients",
                    f"{gap:.2g}",
                    f"at most {GAP_LIMIT:g} (w the Ridge solution of the policy's own X, y and alpha)",
                    "fit the policy again on the X that it keeps, columns in the order of feature_ids",
                )
            )
        factor = RidgeFactor(policy.X.double(), policy.alpha, policy.has_intercept)
        w, r = policy.coef.double(), _residual(factor.Xc, policy)
        q = factor.solve(w)
        return cls(factor, factor.Xc, w, r, q, factor.Xc @ q)


def output_shift(
    frame: PolicyFrame,
    rows: Int64[Tensor, " m"],
    delta_y: Float[Tensor, "*b m"],
    weights: Float[Tensor, " m"] | None = None,
) -> Float64[Tensor, "*b d"]:
    """ΔW_Y = U⁻¹ Xcᵀ Δy, exact; units of w. Leading dimensions of `delta_y` (rows of the batch, say) are kept."""
    moved = delta_y.double() * _weights(rows, weights)
    spread = moved.new_zeros(*moved.shape[:-1], frame.Xc.shape[0]).index_add_(-1, rows, moved)
    return frame.factor.solve_rows(spread.movedim(-1, 0)).movedim(0, -1)


def feature_shift(
    frame: PolicyFrame,
    rows: Int64[Tensor, " m"],
    delta_X: Float[Tensor, "m d"],
    weights: Float[Tensor, " m"] | None = None,
) -> Float64[Tensor, " d"]:
    """ΔW_X = U⁻¹ [ΔXᵀ r − Xcᵀ(ΔX w)], first order in ΔX; units of w."""
    moved, weight = delta_X.double(), _weights(rows, weights)
    explained = moved.new_zeros(frame.Xc.shape[0]).index_add_(0, rows, weight * (moved @ frame.w))
    return frame.factor.solve(moved.T @ (weight * frame.r[rows])) - frame.factor.solve_rows(explained)


def alignment(delta_W: Float64[Tensor, "*b d"], w: Float64[Tensor, " d"]) -> Float64[Tensor, "*b d"]:
    """ΔW ∘ w: per feature, > 0 where the shift strengthens the coefficient, < 0 where it weakens it."""
    return delta_W * w


def score_cotangent_y(
    frame: PolicyFrame, rows: Int64[Tensor, " m"], weights: Float[Tensor, " m"] | None = None
) -> Float64[Tensor, " m"]:
    """g = weights ∘ (Xc q) at `rows`: S_Y = g · Δy."""
    return _weights(rows, weights) * frame.Xq[rows]


def score_cotangent_X(
    frame: PolicyFrame, rows: Int64[Tensor, " m"], weights: Float[Tensor, " m"] | None = None
) -> Float64[Tensor, "m d"]:
    """G = weights ∘ (r qᵀ − (Xc q) wᵀ) at `rows`: S_X = ⟨G, ΔX⟩."""
    outer = frame.r[rows, None] * frame.q - frame.Xq[rows, None] * frame.w
    return _weights(rows, weights)[:, None] * outer


def exact_refit(
    policy: SymbolicPolicy,
    rows: Int64[Tensor, " m"],
    delta_X: Float[Tensor, "m d"],
    delta_y: Float[Tensor, " m"],
) -> Float64[Tensor, " d"]:
    """w(X + ΔX, y + Δy) − w(X, y): the shift without approximation, same alpha; no weights; units of w.

    With X' = X + ΔX (centred anew where the policy has an intercept) and U' = X'ᵀX' + alpha·I it equals, exactly,

        U'⁻¹ [ΔXᵀ r + X'ᵀ(Δy − ΔX w)]

    by Xcᵀ r = alpha·w. That is the first-order formula with U', X' for U, X; no difference of two nearly equal fits is
    formed, so small shifts keep their digits. Costs one factorisation. Raises `MeasurementError` for NaN or Inf in the
    changes; `rows` must not repeat.
    """
    assert len(set(rows.tolist())) == rows.numel(), "exact_refit: a fit row is given twice"
    moved_X, moved_y = delta_X.double(), delta_y.double()
    if not bool(torch.isfinite(moved_X).all() and torch.isfinite(moved_y).all()):
        remedy = "measure the probes again; NaN in the model's weights makes every later snapshot unusable"
        raise MeasurementError(describe("change on the probes", "NaN or Inf", "finite values", remedy))
    X = policy.X.double()
    r = _residual(X - X.mean(dim=0) if policy.has_intercept else X, policy)
    after = RidgeFactor(X.index_add(0, rows, moved_X), policy.alpha, policy.has_intercept)
    moved = moved_y.new_zeros(X.shape[0]).index_add_(0, rows, moved_y - moved_X @ policy.coef.double())
    return after.solve(moved_X.T @ r[rows]) + after.solve_rows(moved)


def remainder(exact: Float64[Tensor, " d"], first_order: Float64[Tensor, " d"]) -> float:
    """‖exact − first_order‖ / ‖exact‖ ≥ 0; NaN where `exact` is 0."""
    scale = float(exact.norm())
    return float((exact - first_order).norm()) / scale if scale > 0 else float("nan")


def _residual(Xc: Tensor, policy: SymbolicPolicy) -> Tensor:
    y = policy.y.double()
    return (y - y.mean() if policy.has_intercept else y) - Xc @ policy.coef.double()


def _weights(rows: Tensor, weights: Tensor | None) -> Tensor:
    return torch.ones(rows.shape[0], dtype=torch.float64) if weights is None else weights.double()
