"""Reads whether an answer shows the behaviour, in any wording, from its hidden states: a Ridge on reference answers.

    reading = a·direction + offset,   a = mean residual stream over the answer's first `ANSWER_TOKENS` tokens

fitted to +1 for reference answers that show the behaviour and −1 for those that do not, alpha by cross-validation. It
says what a row teaches; the push says what the row does. Ours, not the paper's; what was tried is in the README.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from ..records.policy import AnswerRuler
from .ridge import choose_alpha, fit_ridge

ANSWER_TOKENS = 24
"""Tokens of an answer that are averaged, at most."""


def answer_mean(hidden: Float[Tensor, "b t d"], answer: Bool[Tensor, "b t"]) -> Float[Tensor, "b d"]:
    """Mean of `hidden` over the first `ANSWER_TOKENS` tokens of each row's `answer`; 0 for a row without one."""
    first = answer & (answer.cumsum(1) <= ANSWER_TOKENS)
    weight = first.to(hidden.dtype)
    return torch.einsum("btd,bt->bd", hidden, weight) / weight.sum(1, keepdim=True).clamp(min=1)


def fit_answers(means: Float64[Tensor, "n d"], shows: Bool[Tensor, " n"]) -> AnswerRuler:
    """The ruler of n reference answers. Raises `ConfigError` where a reading cannot be fitted (no answers)."""
    scale = means.std()
    target = torch.where(shows, 1.0, -1.0).double()
    fit = fit_ridge(means / scale, target, choose_alpha(means / scale, target), intercept=True)
    return AnswerRuler(fit.coef / scale, fit.intercept)


def read_answers(ruler: AnswerRuler, means: Float64[Tensor, "n d"]) -> Float64[Tensor, " n"]:
    """The reading of n answers: about +1 where the behaviour shows, −1 where not."""
    return means @ ruler.direction + ruler.offset
