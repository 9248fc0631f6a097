"""Cards of features: what they fire on and what they write, as plain text."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..records.snapshot import Snapshot
from .assemble import Instruments
from .causal import inner_causal
from .sharded import whole

CARDS = 10
"""Cards in a report."""
TOP = 5
"""Probes and tokens on a card."""


def feature_cards(instruments: Instruments, last: Snapshot, drift: Tensor, tokenizer: Any) -> list[dict[str, Any]]:
    """The ten features with the largest |mean drift · w| on the measured probes, each with its mean ``drift``.

    `drift` (m, d) is ΔX since the first snapshot, `last` the whole set.
    """
    mean = drift.mean(0)
    order = (mean * instruments.policy.coef).abs().argsort(descending=True)[:CARDS].tolist()
    return [{**feature_card(instruments, last, k, tokenizer), "drift": float(mean[k])} for k in order]


def feature_card(instruments: Instruments, at: Snapshot, k: int, tokenizer: Any) -> dict[str, Any]:
    """The card of the policy's column `k`: ``feature``, ``coefficient``, ``density``, ``top_probes``, ``top_tokens``.

    `at` is a snapshot of the whole set. Density is the fraction of probes on which the feature is on; the top tokens
    are those its decoder direction raises most through the unembedding.
    """
    policy, probes = instruments.policy, instruments.bench.probes.probes
    unembedding = whole(inner_causal(instruments.reader.model).get_output_embeddings().weight.detach())  # type: ignore[operator]
    feature, column = policy.feature_ids[k], at.X[:, k]
    top = column.argsort(descending=True)[:TOP].tolist()
    tokens = instruments.reader.dictionary.decoder_top_tokens(unembedding, feature, TOP).tolist()
    return {
        "feature": feature,
        "coefficient": float(policy.coef[k]),
        "density": float((column > 0).double().mean()),
        "top_probes": [
            {"id": probes[i].id, "prompt": probes[i].prompt, "activation": float(column[i])}
            for i in top
            if column[i] > 0
        ],
        "top_tokens": [tokenizer.decode([token]) for token in tokens],
    }
