"""The tokens by which an answer is read: the mean residual stream over its first ones (`rulers` reads it)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

ANSWER_TOKENS = 24
"""Tokens of an answer that are averaged, at most."""


def answer_mean(hidden: Float[Tensor, "b t d"], answer: Bool[Tensor, "b t"]) -> Float[Tensor, "b d"]:
    """Mean of `hidden` over the first `ANSWER_TOKENS` tokens of each row's `answer`; 0 for a row without one."""
    first = answer & (answer.cumsum(1) <= ANSWER_TOKENS)
    weight = first.to(hidden.dtype)
    return torch.einsum("btd,bt->bd", hidden, weight) / weight.sum(1, keepdim=True).clamp(min=1)
