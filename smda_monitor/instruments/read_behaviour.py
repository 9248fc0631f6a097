"""The behaviour alone, without a dictionary: for cards and recipes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from ..maths.readings import Readings, read_openings
from .behaviour import Behaviour
from .causal import inner_causal, tree_batch, tree_logits
from .chat import PromptTokens
from .quiet import quiet


@torch.no_grad()
def read_behaviour(
    model: nn.Module, behaviour: Behaviour, prompts: Sequence[PromptTokens], pad: int, batch_size: int = 16
) -> Readings:
    """Readings of `prompts` on `model`, in their order, on the CPU; training is not disturbed (`quiet`)."""
    causal = inner_causal(model)
    parts = []
    with quiet(model):
        for start in range(0, len(prompts), batch_size):
            batch = tree_batch(prompts[start : start + batch_size], behaviour.tree, pad, causal)
            parts.append(read_openings(tree_logits(causal, batch).float(), behaviour.tree))
    return Readings(
        torch.cat([p.openings for p in parts]).cpu(),
        torch.cat([p.log_probability for p in parts]).cpu(),
        torch.cat([p.mass for p in parts]).cpu(),
        torch.cat([p.contrast for p in parts]).cpu(),
    )
