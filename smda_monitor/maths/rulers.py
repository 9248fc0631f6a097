"""Rulers: what a Ridge reads from hidden states, put on a scale where ±1 are the two sorts that it was shown.

    reading = (h·w + b − centre) / spread,   centre = (m₊ + m₋)/2,   spread = (m₊ − m₋)/2

w, b are fitted to +1 for one sort and −1 for the other, alpha by leave-one-out; m₊ and m₋ are the means of *held-out*
predictions (cross-validation) of the two sorts. Without that a sort with fewer examples, or one harder to tell, would
read as the other: the Ridge shrinks towards the mean of all. Ours, not the paper's.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from ..records.policy import Ruler, SymbolicPolicy
from .ridge import choose_alpha, fit_ridge, predict

FOLDS = 5
"""Of the cross-validation; fewer where a sort has fewer examples, none where it has one."""
LEAST_SPREAD = 0.1
"""Of ±1: sorts that cannot be told apart are not drawn apart to ±1."""


def read_by(ruler: Ruler, vectors: Float64[Tensor, "n d"]) -> Float64[Tensor, " n"]:
    """n readings: about +1 where it shows, −1 where not."""
    return vectors @ ruler.direction + ruler.offset


def fit_ruler(vectors: Float64[Tensor, "n d"], shows: Bool[Tensor, " n"]) -> Ruler:
    """The ruler of n examples, of which some show it and some do not. Raises `ConfigError` where there is none."""
    scale = vectors.std()
    X, target = vectors / scale, torch.where(shows, 1.0, -1.0).double()
    alpha = choose_alpha(X, target)
    fit = fit_ridge(X, target, alpha, intercept=True)
    folds = min(FOLDS, int(shows.sum()), int((~shows).sum()))
    unseen = predict(fit, X)
    if folds > 1:
        from sklearn.linear_model import Ridge
        from sklearn.model_selection import StratifiedKFold, cross_val_predict

        split = StratifiedKFold(folds, shuffle=True, random_state=0)
        sorts = split.split(X.numpy(), shows.numpy())
        unseen = torch.from_numpy(cross_val_predict(Ridge(alpha=alpha), X.numpy(), target.numpy(), cv=sorts))
    centre, half = _middle(unseen, shows)
    spread = max(half, LEAST_SPREAD)
    return Ruler(fit.coef / scale / spread, (fit.intercept - centre) / spread)


def opinion(policy: SymbolicPolicy, harmful: Bool[Tensor, " m"]) -> Ruler:
    """The policy's own prediction as a ruler over its features, from the m prompts that come first in its X.

    Where there is only one sort, the centre is the mean and the spread the standard deviation.
    """
    prediction = predict(policy, policy.X)[: len(harmful)]
    if bool(harmful.any()) and not bool(harmful.all()):
        centre, spread = _middle(prediction, harmful)  # below 0 for a behaviour that is shown on the others
    else:
        centre, spread = float(prediction.mean()), float(prediction.std(unbiased=False))
    spread = spread if abs(spread) > 1e-6 else 1e-6
    return Ruler(policy.coef / spread, (policy.intercept - centre) / spread)


def _middle(prediction: Float64[Tensor, " n"], shows: Bool[Tensor, " n"]) -> tuple[float, float]:
    """Midway between the two sorts' means, and half the way from the others to those that show it."""
    high, low = float(prediction[shows].mean()), float(prediction[~shows].mean())
    return (high + low) / 2, (high - low) / 2
