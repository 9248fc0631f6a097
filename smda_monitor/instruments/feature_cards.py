"""Cards of the features that moved most: what they fire on and what they write, as plain text."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..records.snapshot import Snapshot
from .assemble import Instruments
from .causal import inner_causal

CARDS = 10
"""Cards in a report."""
TOP = 5
"""Probes and tokens on a card."""


def feature_cards(instruments: Instruments, last: Snapshot, drift: Tensor, tokenizer: Any) -> list[dict[str, Any]]:
    """The ten features with the largest |mean drift · w| on the measured probes.

    `drift` (m, d) is ΔX since the first snapshot, `last` the whole set. Density is the fraction of probes on which the
    feature is on; the top tokens are those its decoder direction raises most through the unembedding.
    """
    policy = instruments.policy
    mean = drift.mean(0)
    order = (mean * policy.coef).abs().argsort(descending=True)[:CARDS].tolist()
    unembedding = inner_causal(instruments.reader.model).get_output_embeddings().weight.detach()  # type: ignore[operator]
    cards = []
    for k in order:
        feature = policy.feature_ids[k]
        column = last.X[:, k]
        top = column.argsort(descending=True)[:TOP].tolist()
        probes = instruments.bench.probes.probes
        tokens = instruments.reader.dictionary.decoder_top_tokens(unembedding, feature, TOP).tolist()
        cards.append(
            {
                "feature": feature,
                "coefficient": float(policy.coef[k]),
                "drift": float(mean[k]),
                "density": float((column > 0).double().mean()),
                "top_probes": [
                    {"id": probes[i].id, "prompt": probes[i].prompt, "activation": float(column[i])}
                    for i in top
                    if column[i] > 0
                ],
                "top_tokens": [tokenizer.decode([token]) for token in tokens],
            }
        )
    return cards
