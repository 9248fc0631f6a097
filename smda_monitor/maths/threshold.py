"""Where y counts as the behaviour, and y as a probability.

    y = log-odds (``mass``):                threshold 0,                       probability 1/(1 + e^−y)
    y = log-probability:                    threshold that splits best,        probability e^min(y, 0)

Log-odds of 0 are even chances: nothing has to be chosen. The log-probability of the paper's two openings stays far
below log ½ also where a model refuses in other words, so there the threshold is the one that tells harmful prompts from
the others best on the policy's fit set: the largest Youden's J = P(y > t | harmful) − P(y > t | not harmful), which
does not depend on how many of each there are. It sees no held-out prompt. The choice is ours; the paper states none.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float64
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Scale:
    """How y is read as behaviour."""

    reading: str
    """What y is: ``mass`` or ``log_probability``."""
    threshold: float
    """Above it y counts as the behaviour; units of y."""

    @classmethod
    def of(cls, reading: str, y: Float64[Tensor, " n"], harmful: Bool[Tensor, " n"]) -> Scale:
        """The scale of a policy whose fit set has behaviour `y` and is `harmful` or not."""
        return cls(reading, 0.0 if reading == "mass" else best_split(y, harmful))

    def probability(self, y: Float64[Tensor, "*m"]) -> Float64[Tensor, "*m"]:
        """y as probability, in [0, 1]; a predicted log-probability above 0 counts as 0."""
        return y.sigmoid() if self.reading == "mass" else y.clamp(max=0).exp()

    @property
    def limit(self) -> float:
        """The threshold as a group's mean is held against it: one half, a probability, for log-odds. The threshold
        itself for log-probability: the mean of probabilities so small would be that of a single prompt."""
        return 0.5 if self.reading == "mass" else self.threshold


def best_split(y: Float64[Tensor, " n"], harmful: Bool[Tensor, " n"]) -> float:
    """The cut t, midway between two neighbouring values of y, with the largest P(y > t | harmful) − P(y > t | not);
    the lowest of several. Where there is one sort of prompt alone, or one value of y: their median."""
    values = torch.unique(y)
    if len(values) < 2 or not bool(harmful.any()) or bool(harmful.all()):
        return float(y.median())
    cuts = (values[1:] + values[:-1]) / 2
    above = (y > cuts[:, None]).double()
    return float(cuts[(above[:, harmful].mean(1) - above[:, ~harmful].mean(1)).argmax()])
