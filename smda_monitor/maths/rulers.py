"""Rulers: what a Ridge reads from hidden states, put on a scale where ±1 are the two sorts that it was shown.

    reading = (h·w + b − centre) / spread,   centre = (m₊ + m₋)/2,   spread = (m₊ − m₋)/2

w, b are fitted to +1 for one sort and −1 for the other, alpha by leave-one-out; m₊ and m₋ are the means of *held-out*
predictions (cross-validation) of the two sorts. Without that a sort with fewer examples, or one harder to tell, would
read as the other: the Ridge shrinks towards the mean of all. Examples may weigh differently (`balanced`). Ours, not the
paper's.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from ..records.policy import Ruler, SymbolicPolicy
from .ridge import choose_alpha, predict

FOLDS = 5
"""Of the cross-validation; fewer where a sort has fewer examples, none where it has one."""
LEAST_SPREAD = 0.1
"""Of ±1: sorts that cannot be told apart are not drawn apart to ±1."""


def read_by(ruler: Ruler, vectors: Float64[Tensor, "n d"]) -> Float64[Tensor, " n"]:
    """n readings: about +1 where it shows, −1 where not."""
    return vectors @ ruler.direction + ruler.offset


def balanced(*labels: Bool[Tensor, " n"]) -> Float64[Tensor, " n"]:
    """Weights of n examples, mean 1, by which every sort there is of them weighs the same, a sort being those of the
    same `labels`. Of answers by what they show and by what was asked, neither then tells anything of the other."""
    from sklearn.utils.class_weight import compute_sample_weight

    sorts = sum(label.long() * 2**k for k, label in enumerate(labels))
    return torch.from_numpy(compute_sample_weight("balanced", sorts.numpy()))


def fit_ruler(
    vectors: Float64[Tensor, "n d"], shows: Bool[Tensor, " n"], weight: Float64[Tensor, " n"] | None = None
) -> Ruler:
    """The ruler of n examples, of which some show it and some do not, each of `weight` (None: the same). Raises
    `ConfigError` where there is none."""
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    weight = torch.ones(len(shows)).double() if weight is None else weight
    scale = vectors.std()
    X, target = vectors / scale, torch.where(shows, 1.0, -1.0).double()
    alpha = choose_alpha(X, target, weight)
    data, weights = (X.numpy(), target.numpy()), {"sample_weight": weight.numpy()}
    fit = Ridge(alpha=alpha).fit(*data, **weights)
    folds = min(FOLDS, int(shows.sum()), int((~shows).sum()))
    if folds > 1:
        split = StratifiedKFold(folds, shuffle=True, random_state=0).split(X.numpy(), shows.numpy())
        unseen = cross_val_predict(Ridge(alpha=alpha), *data, cv=split, params=weights)
    else:
        unseen = fit.predict(X.numpy())
    centre, half = _middle(torch.from_numpy(unseen), shows, weight)
    spread = max(half, LEAST_SPREAD)
    return Ruler(torch.from_numpy(fit.coef_) / scale / spread, (float(fit.intercept_) - centre) / spread)


def read_answers(policy: SymbolicPolicy, means: Float64[Tensor, "n d"]) -> Float64[Tensor, "n 2"] | None:
    """By the mean over each of n answers' tokens: what the answer shows, and whether its prompt calls for the
    behaviour; NaN where the policy cannot read that, None where it has no reference answers."""
    if policy.answers is None:
        return None
    asked = torch.full((len(means),), float("nan")) if policy.asked is None else read_by(policy.asked, means)
    return torch.stack([read_by(policy.answers, means), asked.double()], dim=1)


def opinion(policy: SymbolicPolicy, harmful: Bool[Tensor, " m"]) -> Ruler:
    """The policy's own prediction as a ruler over its features, from the m prompts that come first in its X.

    Where there is only one sort, the centre is the mean and the spread the standard deviation.
    """
    prediction = predict(policy, policy.X)[: len(harmful)]
    if bool(harmful.any()) and not bool(harmful.all()):
        even = torch.ones_like(prediction)
        centre, spread = _middle(prediction, harmful, even)  # below 0 for a behaviour that is shown on the others
    else:
        centre, spread = float(prediction.mean()), float(prediction.std(unbiased=False))
    spread = spread if abs(spread) > 1e-6 else 1e-6
    return Ruler(policy.coef / spread, (policy.intercept - centre) / spread)


def _middle(
    prediction: Float64[Tensor, " n"], shows: Bool[Tensor, " n"], weight: Float64[Tensor, " n"]
) -> tuple[float, float]:
    """Midway between the two sorts' means, and half the way from the others to those that show it."""
    high, low = (float(prediction[sort] @ weight[sort] / weight[sort].sum()) for sort in (shows, ~shows))
    return (high + low) / 2, (high - low) / 2
