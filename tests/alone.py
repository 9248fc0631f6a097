"""References that share nothing with the package: one prompt, one opening at a time, no padding, no tree, no mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


def opening_alone(model: Any, prompt: Sequence[int], opening: Sequence[int]) -> Tensor:
    """Log-probability of `opening` after `prompt`, teacher-forced; float64, with its graph."""
    logits = model(input_ids=torch.tensor([[*prompt, *opening]]), use_cache=False).logits[0].double()
    logp = logits.log_softmax(-1)
    return torch.stack([logp[len(prompt) - 1 + i, token] for i, token in enumerate(opening)]).sum()


@dataclass(frozen=True)
class ReadingsAlone:
    """The readings of one prompt, from its openings one by one."""

    openings: Tensor
    log_probability: Tensor
    mass: Tensor
    contrast: Tensor


def readings_alone(
    model: Any, prompt: Sequence[int], behaviour: Sequence[Sequence[int]], opposite: Sequence[Sequence[int]]
) -> ReadingsAlone:
    """P as a sum, 1 − P by subtraction: good where P is neither tiny nor almost 1."""
    ours = torch.stack([opening_alone(model, prompt, o) for o in behaviour])
    others = torch.stack([opening_alone(model, prompt, o) for o in opposite])
    p = ours.exp().sum()
    return ReadingsAlone(torch.cat([ours, others]), p.log(), p.log() - torch.log1p(-p), ours.mean() - others.mean())


def hidden_alone(model: Any, prompt: Sequence[int], layer: int, read: int) -> Tensor:
    """The residual stream after block `layer` (not the last) at token `read`, from transformers' own hidden states,
    which start with the embeddings."""
    output = model(input_ids=torch.tensor([list(prompt)]), use_cache=False, output_hidden_states=True)
    stream: Tensor = output.hidden_states[layer + 1][0, read]
    return stream
