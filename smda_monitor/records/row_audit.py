"""What `smda audit` finds of one training row before anything is trained on it.

The row is judged by the step that an optimizer would take on it alone, from one and the same state, less the step that
it would take on nothing. What is in both, momentum and weight decay, is not the row's.
"""

from __future__ import annotations

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
    """Under ``replay`` the features with the largest |ΔW_k w_k|, largest first, in both pathways and by the exact
    refit; empty under ``gradient``."""
    refit_remainder: float
    """‖exact refit ΔW − first-order ΔW‖ / ‖exact refit ΔW‖; ≥ 0; NaN under ``gradient`` and where nothing moved."""
    seconds: float
    """Wall time that the row took; under ``gradient`` its part of its portion's."""

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
