"""What `smda audit` finds of one training row before anything is trained on it.

The row is judged by the step that an optimizer would take on it alone, from one and the same state, less the step that
it would take on nothing. What is in both, momentum and weight decay, is not the row's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from .account import FeatureShift, RowEntry

AuditMethod = Literal["replay", "gradient"]
"""How: ``replay``, the step is taken and the probes are measured; ``gradient``, its direction is read on the gradients
of the probes' targets, first order."""


@dataclass(frozen=True, slots=True)
class RowAudit:
    """One row, judged alone."""

    line: int
    """Its line, or row, in the data set that was audited, from 1."""
    entry: RowEntry
    """The row: ``step`` is 0, there are no shares (alone in its step, a row's share is its push), and no ``score``,
    which is relative to all rows that are audited together (`maths.score`)."""
    features: tuple[FeatureShift, ...]
    """The features with the largest |ΔW_k w_k|, largest first, in both pathways: under ``replay`` of all, and by the
    exact refit too; under ``gradient`` of the watched ones, `FeatureShift.refit` NaN."""
    refit_remainder: float
    """‖exact refit ΔW − first-order ΔW‖ / ‖exact refit ΔW‖; ≥ 0; NaN under ``gradient`` and where nothing moved."""
    seconds: float
    """Wall time that the row took; under ``gradient`` its part of its portion's."""
    watched: tuple[FeatureShift, ...] = ()
    """The watched features (``account.watched_features`` of them, those that lead the policy), in the same order for
    every row: ΔW_k in both pathways; `FeatureShift.refit` is NaN under ``gradient``."""
    intended: tuple[int, ...] = ()
    """Ids of the watched features that the row's own prompt calls for: those of I (`maths.interference`), the smallest
    set of all features that carries 90 % of the policy's prediction for it. Empty where the prompt was not read."""
    watched_interference: float = math.nan
    """Σ_{k∉I}|ΔW_k w_k| / Σ_k|ΔW_k w_k| over the watched features, both pathways together, in [0, 1]; NaN where the own
    prompt was not read or nothing is watched. (``entry.interference`` is over all features, on the output-probability
    pathway alone, which is known of all of them by either method.)"""
    watched_dominant: int = -1
    """The watched feature with the largest |ΔW_k w_k|, both pathways together; −1 where none moved."""

    @property
    def dominant_unintended(self) -> bool:
        """Whether the dominant watched feature is one that the row's own prompt did not call for; False where that
        prompt was not read."""
        read = not math.isnan(self.watched_interference)
        return read and self.watched_dominant >= 0 and self.watched_dominant not in self.intended

    @property
    def S_X(self) -> float:
        """Σ_k ΔW_X,k w_k, through feature activation; units of w²."""
        return self.entry.push["S_X"]

    @property
    def S_Y(self) -> float:
        """Σ_k ΔW_Y,k w_k, through output probability; units of w²."""
        return self.entry.push["S_Y"]

    @property
    def S(self) -> float:
        """The pair score S_X + S_Y: > 0 reinforces the policy, < 0 erodes it (arXiv 2606.29171)."""
        return self.S_X + self.S_Y
