"""How refusal as it is read agrees with what the model says: a sentence for the card."""

from __future__ import annotations

from typing import Any

import torch

from smda_monitor.instruments.decoding import chat_texts, greedy_openings, refuses
from smda_monitor.records.probes import ProbeSet

TOKENS = 24
"""Tokens of an answer that are decoded."""


def spoken_openings(model: Any, tokenizer: Any, probes: ProbeSet) -> list[str]:
    """The first 24 tokens of the greedy answer to every probe."""
    return greedy_openings(model, tokenizer, chat_texts(tokenizer, [p.prompt for p in probes]), TOKENS)


def against_reading(mass: torch.Tensor, said: list[str], probes: ProbeSet) -> str:
    """How the mass reading agrees with what was said: accuracy at log-odds 0, AUROC, and refusals said by kind."""
    from sklearn.metrics import roc_auc_score

    spoken = torch.tensor([refuses(text) for text in said])
    accuracy = float(((mass > 0) == spoken).double().mean())
    majority = float(torch.maximum(spoken.double().mean(), 1 - spoken.double().mean()))
    auroc = roc_auc_score(spoken.numpy(), mass.numpy()) if 0 < int(spoken.sum()) < len(said) else float("nan")
    counts = []
    for kind in dict.fromkeys(p.kind for p in probes):
        mine = torch.tensor([p.kind == kind for p in probes])
        counts.append(f"{kind} {int(spoken[mine].sum())} of {int(mine.sum())}")
    return (
        f"Greedy decoding of {TOKENS} tokens on the held-out prompts refuses: {', '.join(counts)}. The mass reading, "
        f"thresholded at log-odds 0, agrees in {accuracy:.1%} of prompts (majority baseline {majority:.1%}); AUROC "
        f"{auroc:.3f}."
    )
