"""The suspicion score of a training row: does it teach, and move, refusal against the policy's reading of its prompt?

    expected_i = tanh((ŷ_i − centre) / spread)                       the policy's opinion of the row's prompt, (−1, 1)
    score_i    = −expected_i · (reading_i + push_i / (2·scale))      two witnesses against it

reading_i is what the row's answer shows (`answers`, about ±1; left out without reference answers), push_i its contrast
push on its own prompt, nats. centre is midway between the policy's mean prediction for harmful and for the
other probes, spread half their distance. scale is the mean |push| of those rows of the same step that push at all, so
that early, large steps do not outweigh later ones. Positive: against the policy. The formula is fixed and sees no label
of a row. It is ours, not the paper's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float64
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Ruler:
    """Where the policy's predictions change from answer to refuse."""

    centre: float
    """Prediction midway between the two means; units of y."""
    spread: float
    """Half the distance of the means; units of y, > 0."""

    def expected(self, prediction: Float64[Tensor, " n"]) -> Float64[Tensor, " n"]:
        """tanh((ŷ − centre)/spread): 1 refuse, −1 answer."""
        return torch.tanh((prediction - self.centre) / self.spread)


def ruler(prediction: Float64[Tensor, " n"], harmful: Bool[Tensor, " n"]) -> Ruler:
    """The ruler of a policy from its predictions on prompts known to be harmful or not.

    Where there is only one sort, the centre is the mean and the spread the standard deviation.
    """
    if bool(harmful.any()) and not bool(harmful.all()):
        high, low = float(prediction[harmful].mean()), float(prediction[~harmful].mean())
        return Ruler((high + low) / 2, max(abs(high - low) / 2, 1e-6))
    return Ruler(float(prediction.mean()), max(float(prediction.std(unbiased=False)), 1e-6))


def scores(
    push: Float64[Tensor, " n"],
    prediction: Float64[Tensor, " n"],
    by: Ruler,
    reading: Float64[Tensor, " n"] | None = None,
) -> Float64[Tensor, " n"]:
    """The score of every row of one step; NaN where `push` is NaN. Without `reading` the push is the only witness."""
    pushing = push[~push.isnan() & (push != 0)].abs()
    relative = push / pushing.mean() if pushing.numel() else push
    witness = relative / 2 if reading is None else reading + relative / 2
    return -by.expected(prediction) * witness


def against(push: Float64[Tensor, " n"], prediction: Float64[Tensor, " n"], by: Ruler) -> Bool[Tensor, " n"]:
    """Whether a row moves refusal against the policy's reading of its prompt: push and opinion of opposite sign."""
    return by.expected(prediction) * push < 0
