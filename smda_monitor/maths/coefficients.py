"""The policy's coefficients in the order in which predictions depend on them: by |w_k|·std(X_k) over the fit set."""

from __future__ import annotations

from ..records.policy import SymbolicPolicy
from ..records.policy_findings import RankedCoefficient


def ranked_coefficients(policy: SymbolicPolicy) -> tuple[RankedCoefficient, ...]:
    """All d coefficients with their bootstrap intervals, largest |w_k|·std(X_k) first, equal ones in column order; the
    order of `watched.leading_features`."""
    coef = policy.coef.double()
    spread = policy.X.double().std(dim=0, correction=0)
    effect = coef.abs() * spread
    columns = (coef, policy.coef_low.double(), policy.coef_high.double(), spread, effect)
    return tuple(
        RankedCoefficient(policy.feature_ids[k], *(float(column[k]) for column in columns))
        for k in effect.argsort(descending=True, stable=True).tolist()
    )
