"""The policy's coefficients in the order in which predictions depend on them: by |w_k|·std(X_k) over the fit set."""

from __future__ import annotations

from jaxtyping import Float64
from torch import Tensor

from ..records.policy import SymbolicPolicy
from ..records.policy_findings import RankedCoefficient


def spreads(policy: SymbolicPolicy) -> Float64[Tensor, " d"]:
    """std(X_k) over the fit set, activation units, ≥ 0."""
    return policy.X.double().std(dim=0, correction=0)


def effects(policy: SymbolicPolicy) -> Float64[Tensor, " d"]:
    """|w_k|·std(X_k): how far predictions vary by each feature; units of y, ≥ 0."""
    return policy.coef.double().abs() * spreads(policy)


def ranked_coefficients(policy: SymbolicPolicy) -> tuple[RankedCoefficient, ...]:
    """All d coefficients with their bootstrap intervals, largest of `effects` first, equal ones in column order."""
    effect = effects(policy)
    bounds = policy.coef_low.double(), policy.coef_high.double()
    columns = (policy.coef.double(), *bounds, spreads(policy), effect)
    return tuple(
        RankedCoefficient(policy.feature_ids[k], *(float(column[k]) for column in columns))
        for k in effect.argsort(descending=True, stable=True).tolist()
    )
