"""Watched features: the policy shift ΔW_k of a few features, as functionals of ΔX and Δy that rows can be read on.

With q_k = U⁻¹e_k, r = y − Xw and the stratum weights v of m measured probes (`pathways` for U, Xc and centring):

    ΔW_X,k = ⟨G_k, ΔX⟩ = Σ_j [ v_j r_j (ΔX_j·q_k) − v_j (Xc q_k)_j (ΔX_j·w) ],    G_k = v ∘ (r q_kᵀ − (Xc q_k) wᵀ)
    ΔW_Y,k = Σ_j v_j (Xc q_k)_j Δy_j

G_k itself (m, d) is never formed: K products with q_k and one with w are all that is needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from ..records.account import WatchedBy
from ..records.policy import SymbolicPolicy
from .coefficients import effects
from .pathways import PolicyFrame


@dataclass(frozen=True, slots=True)
class WatchedShifts:
    """The two pathways of K watched features, over m probes."""

    Q: Float64[Tensor, "d K"]
    """q_k, by column."""
    w: Float64[Tensor, " d"]
    """The policy's coefficients."""
    residual: Float64[Tensor, " m"]
    """v ∘ r at the measured probes."""
    spread: Float64[Tensor, "m K"]
    """v ∘ (Xc q_k) at the measured probes."""

    @classmethod
    def of(
        cls, frame: PolicyFrame, rows: Int64[Tensor, " m"], weights: Float64[Tensor, " m"], columns: Sequence[int]
    ) -> WatchedShifts:
        """Of the policy's `columns`; probe j is fit row rows_j and stands for weights_j probes."""
        units = torch.zeros(len(frame.w), len(columns), dtype=torch.float64)
        units[list(columns), torch.arange(len(columns))] = 1
        Q = frame.factor.solve(units)
        return cls(Q, frame.w, weights * frame.r[rows], weights[:, None] * (frame.Xc[rows] @ Q))

    @property
    def count(self) -> int:
        """K."""
        return self.Q.shape[1]

    def part(self, features: slice) -> WatchedShifts:
        """Of some of the features."""
        return WatchedShifts(self.Q[:, features], self.w, self.residual, self.spread[:, features])

    def through_features(self, X: Float[Tensor, "b d"], probes: Sequence[int]) -> Float[Tensor, " K"]:
        """What X (or ΔX) of the `probes` numbered among the m adds to ΔW_X; units of w, in the type of X. Linear, and
        additive over probes: its value at ΔX of all m is ΔW_X of every watched feature."""
        residual, spread = (t[list(probes)].to(X) for t in (self.residual, self.spread))
        return residual @ (X @ self.Q.to(X)) - (X @ self.w.to(X)) @ spread

    def by_replay(self, after: Float[Tensor, "m d"], without: Iterable[Float[Tensor, "m d"]]) -> Float64[Tensor, "n K"]:
        """ΔW_X of every watched feature for each of n ≥ 1 rows: from X of the m probes `after` a step, and after the
        step `without` the row."""
        whole, probes = after.double(), range(len(after))
        return torch.stack([self.through_features(whole - X.double(), probes) for X in without])

    def through_output(self, delta_y: Float64[Tensor, "n m"]) -> Float64[Tensor, "n K"]:
        """ΔW_Y of every watched feature for each of n causes; exact in Δy, units of w."""
        return delta_y @ self.spread


def leading_features(policy: SymbolicPolicy, count: int) -> list[int]:
    """Columns of the `count` features with the largest `coefficients.effects`, largest first: those that the policy's
    predictions depend on most. None whose effect is 0."""
    return _largest(effects(policy), count)


def drifting_features(
    drift: Float[Tensor, " d"], coef: Float64[Tensor, " d"], count: int, besides: Sequence[int]
) -> list[int]:
    """Columns of the `count` features with the largest |drift_k·w_k|, largest first, of those not in `besides`; none
    that did not move."""
    moved = drift.double().abs() * coef.double().abs()
    moved[list(besides)] = 0
    return _largest(moved, count)


def cheaper_way(rows: int, features: int) -> WatchedBy:
    """How the feature-activation pathway of `features` is split among `rows` with less work.

    In forwards up to the hookpoint, a backward counted as two: a replay is one for every row, a backward two for every
    feature; the forward at the step's end is common to both. Equal work goes to the replay, which sees gate switches.
    """
    return "replay" if rows <= 2 * features else "backward"


def _largest(size: Tensor, count: int) -> list[int]:
    order = size.argsort(descending=True, stable=True)[:count].tolist()
    return [k for k in order if float(size[k]) > 0]
