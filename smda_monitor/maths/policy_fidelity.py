"""How far a symbolic policy may be trusted on prompts that it was not fitted on, beside what needs no features.

    R² beside the constant baseline (the fit set's mean);  accuracy of 1[ŷ > t] = 1[y > t] beside the majority baseline

The presets differ in the intercept, on purpose: the paper fits without. Both variants are shown, on the same X, y and
alpha, so that only the intercept differs.
"""

from __future__ import annotations

from jaxtyping import Float, Float64
from torch import Tensor

from ..records.policy import SymbolicPolicy
from ..records.policy_findings import HeldoutFidelity, VariantFidelity
from .bootstrap import estimate, mean, r2
from .ridge import RidgeFit, fit_ridge, predict


def heldout_fidelity(
    policy: SymbolicPolicy, X: Float[Tensor, "m d"], y: Float64[Tensor, " m"], threshold: float, seed: int
) -> HeldoutFidelity:
    """Fidelity on m held-out prompts with features `X` (columns in the policy's order) and behaviour `y`.

    The majority baseline names the side of `threshold` that more of these m prompts are on, as the paper's does: it
    knows them, so it is a little harder to beat than one that does not. All intervals are over the same resamples.
    """
    behaves = y > threshold
    by_majority = (behaves == (behaves.double().mean() > 0.5)).double()
    fit_y = policy.y.double()
    other = fit_ridge(policy.X.double(), fit_y, policy.alpha, not policy.has_intercept)

    def variant(fit: SymbolicPolicy | RidgeFit, intercept: bool) -> VariantFidelity:
        prediction = predict(fit, X)
        right = ((prediction > threshold) == behaves).double()
        return VariantFidelity(
            intercept=intercept,
            is_policy=fit is policy,
            r2=estimate(r2, y, prediction, seed=seed, paired=True),
            accuracy=estimate(mean, right, seed=seed),
            over_majority=estimate(mean, right - by_majority, seed=seed),
        )

    return HeldoutFidelity(
        prompts=len(y),
        threshold=threshold,
        r2_constant=estimate(r2, y, fit_y.mean().expand_as(y), seed=seed, paired=True),
        majority=estimate(mean, by_majority, seed=seed),
        variants=(variant(policy, policy.has_intercept), variant(other, not policy.has_intercept)),
    )
