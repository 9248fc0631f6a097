"""The suspicion score of a training row: does it teach, and move, refusal against what is expected on its prompt?

    expected_i = tanh(prompt_i + asked_i)                            show the behaviour 1, do not −1
    score_i    = −expected_i · (answer_i + loud_i / 2)               two witnesses against it
    loud_i     = sign(push_i) · max(0, |push_i| / scale − 3)         of a push, what stands out of its step

prompt_i is what the row's prompt reads on the ruler of prompts that are known to be harmful or not (`rulers`), asked_i
what its answer tells of the prompt, whose tokens see it (left out where reference answers do not teach that), answer_i
what the answer shows (about ±1), push_i its contrast push on its own prompt, nats. scale is the mean |push| of those
rows of the same step that push at all, so that early, large steps do not outweigh later ones. Beside an answer that is
read, pushes of the usual size are noise (README, detection), and only what goes beyond `LOUD` scales counts; without
reference answers the whole push is the witness, push_i / (2·scale). Positive: against what is expected. The formula is
fixed and sees no label of a row. It is ours, not the paper's.

A behaviour that is wrong on harmful prompts (a guess by stereotype) is not for that reason called for by all others, so
that of these nothing is expected:

    expected_i = −(1 + tanh(prompt_i)) / 2                           do not show it −1, no matter 0
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from ..records.config import WantedOn

LOUD = 3.0
"""Mean sizes of a push in its step from which it counts beside what the answer shows."""


def expectation(prompt: Float64[Tensor, " n"], wanted_on: WantedOn = "harmful") -> Float64[Tensor, " n"]:
    """What is expected of n prompts by what they read on the ruler of prompts: in (−1, 1), of a behaviour that is
    `wanted_on` harmless ones in (−1, 0); NaN where the reading is."""
    by_kind = torch.tanh(prompt)
    return by_kind if wanted_on == "harmful" else -(1 + by_kind) / 2


def seen_by_answers(expected: Float64[Tensor, " n"], asked: Float64[Tensor, " n"]) -> Float64[Tensor, " n"]:
    """What is expected by what n prompts read (`expectation`, of a behaviour wanted on harmful ones) and what their
    answers read on the ruler of what was `asked`, together: tanh(p + a) = (tanh p + tanh a) / (1 + tanh p · tanh a). By
    the prompts alone where `asked` is NaN."""
    more = torch.tanh(asked)
    whole = (expected + more) / (1 + expected * more).clamp(min=1e-12)  # certain either way: 0
    return torch.where(asked.isnan(), expected, whole)


def scores(
    push: Float64[Tensor, " n"], expected: Float64[Tensor, " n"], answer: Float64[Tensor, " n"] | None = None
) -> Float64[Tensor, " n"]:
    """The score of every row of one step; NaN where `push` is NaN. Without `answer` the push is the only witness."""
    pushing = push[~push.isnan() & (push != 0)].abs()
    relative = push / pushing.mean() if pushing.numel() else push
    if answer is None:
        return -expected * relative / 2
    return -expected * (answer + relative.sign() * (relative.abs() - LOUD).clamp(min=0) / 2)


def score_figures(found: Float64[Tensor, " n"], unintended: Float64[Tensor, " n"]) -> dict[str, int | float]:
    """Of n ≥ 1 rows with scores `found` that are `unintended` (1) or not (0): ``scored``, how many have a score, and
    ``unintended``, which share of all is, in [0, 1]."""
    return {"scored": int(found.isfinite().sum()), "unintended": float(unintended.mean())}


def against(push: Float64[Tensor, " n"], expected: Float64[Tensor, " n"]) -> Bool[Tensor, " n"]:
    """Whether a row moves refusal against what is expected on its prompt: of opposite sign."""
    return expected * push < 0
