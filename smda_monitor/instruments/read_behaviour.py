"""The behaviour alone, without a dictionary: for cards and recipes, and to hold the tree against plain forwards."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import PrerequisiteError, describe
from ..maths.readings import Readings
from .behaviour import Behaviour
from .causal import inner_causal, tree_batch, tree_readings
from .chat import PromptTokens
from .quiet import quiet
from .sharded import entrance

logger = logging.getLogger("smda_monitor")
THINKING = re.compile(r"[<\[][^\w/]*(think|thought|reason|analysis|channel)\w*\W*$", re.IGNORECASE)
"""How an answer that thinks first begins."""
TAIL = 12
"""Tokens at a prompt's end in which a template's own beginning of a thought lies."""
ROUNDING, HALF_ROUNDING = 0.02, 0.5
"""Largest difference of two ways to score an opening that is a rounding error, nats: float32, and half precision or
fewer bits."""


@torch.no_grad()
def read_behaviour(
    model: nn.Module, behaviour: Behaviour, prompts: Sequence[PromptTokens], pad: int, batch_size: int = 16
) -> Readings:
    """Readings of `prompts` on `model`, in their order, on the CPU; training is not disturbed (`quiet`)."""
    causal = inner_causal(model)
    into, parts = entrance(model, causal), []
    with quiet(model):
        for start in range(0, len(prompts), batch_size):
            batch = tree_batch(prompts[start : start + batch_size], behaviour.tree, pad, causal)
            parts.append(tree_readings(causal, into, batch, behaviour.tree))
    return Readings(
        torch.cat([p.openings for p in parts]).cpu(),
        torch.cat([p.log_probability for p in parts]).cpu(),
        torch.cat([p.mass for p in parts]).cpu(),
        torch.cat([p.contrast for p in parts]).cpu(),
    )


@torch.no_grad()
def check_reading(model: nn.Module, behaviour: Behaviour, prompts: Sequence[PromptTokens], pad: int) -> None:
    """Holds the tree's longest and last opening against the same ones alone in a plain forward, on the shortest and the
    longest of `prompts`.

    Raises `PrerequisiteError` where they differ by more than rounding: the model does not follow a 4D attention mask
    (layers that are not attention, say), and its readings would be wrong without any other sign.
    """
    causal = entrance(model, inner_causal(model))
    sequences = behaviour.tree.sequences
    openings = sorted({max(range(len(sequences)), key=lambda o: len(sequences[o])), len(sequences) - 1})
    ends = [min(prompts, key=lambda p: len(p.ids)), max(prompts, key=lambda p: len(p.ids))]
    name, remedy = type(causal).__name__, "use a model of attention layers that follow an attention mask."
    try:
        found = read_behaviour(model, behaviour, ends, pad).openings[:, openings]
    except (RuntimeError, TypeError, ValueError) as error:
        expected = "a model that takes a 4D attention mask"
        raise PrerequisiteError(describe(name, f"{type(error).__name__} ({error})", expected, remedy)) from error
    with quiet(model):
        alone = torch.stack([torch.stack([_alone(causal, p, sequences[o]) for o in openings]) for p in ends])
    gap = float((found - alone).abs().max())
    exact = all(weight.element_size() >= 4 for weight in causal.parameters())
    limit = ROUNDING if exact else HALF_ROUNDING
    # NaN is left to the measurement, which names the prompt.
    if gap > limit:
        what = f"readings that differ by {gap:.2g} nats from those of an opening alone"
        raise PrerequisiteError(describe(name, what, f"at most {limit:g}", remedy))


@torch.no_grad()
def check_lead(model: nn.Module, tokenizer: Any, prompt: PromptTokens) -> None:
    """Says so where the model thinks first, or its template begins a thought: what an answer opens with is not read
    behind `prompt` then."""
    causal = entrance(model, inner_causal(model))
    with quiet(model):
        ids = torch.tensor([prompt.ids], device=next(causal.parameters()).device)
        likeliest = int(causal(input_ids=ids, use_cache=False).logits[0, -1].argmax())
    begun = [tokenizer.decode(tokens).strip() for tokens in (list(prompt.ids[-TAIL:]), [likeliest])]
    if word := next((found[0] for text in begun if (found := THINKING.search(text))), ""):
        message = (
            "The model opens its answers with %r: no opening is read there. Set behaviour.lead to what stands before"
        )
        logger.warning(message + " the words of an answer, e.g. a block of thinking without a thought.", word)


def _alone(causal: nn.Module, prompt: PromptTokens, opening: Sequence[int]) -> Tensor:
    """Log-probability of `opening` after `prompt` by one plain forward; a float64 scalar on the CPU."""
    ids = torch.tensor([[*prompt.ids, *opening[:-1]]], device=next(causal.parameters()).device)
    logits: Tensor = causal(input_ids=ids, use_cache=False).logits[0, len(prompt.ids) - 1 :]
    return logits.double().cpu().log_softmax(-1).gather(1, torch.tensor(opening)[:, None]).sum()
