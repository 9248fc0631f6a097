"""One row of one step whose push was checked: the step was replayed without it, on the real optimizer and model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .account import FeatureShift

Reason = Literal["sample", "asked"]


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """What the account said of one row, beside what the replay measured."""

    step: int
    """The optimizer step, counted from 1."""
    row_id: str
    """The row's id, as in `RowEntry.row_id`."""
    row_hash: str
    """The row's content, as in `RowEntry.row_hash`."""
    warm_up: bool
    """True for the first steps (`WARM_UP_STEPS`): low confidence."""
    reason: Reason
    """``sample``: drawn at random; ``asked``: its id is among ``audit.rows``."""
    push: dict[str, float]
    """By target: the account's figure for the row."""
    replayed: dict[str, float]
    """By target: the finite effect, measured after the step less measured after the same step without the row."""
    noise: dict[str, float]
    """By target: how large a difference rounding alone makes between two measurements; ≥ 0. A replayed figure below
    it says nothing."""
    features: tuple[FeatureShift, ...]
    """The leading features of the finite effect, from the replay's whole ΔX and Δy: ΔW_X first order in ΔX, ΔW_Y exact,
    and the exact refit; largest |ΔW_k w_k| first. Empty unless the row was asked for."""
    refit_remainder: float
    """‖exact refit ΔW − first-order ΔW‖ / ‖exact refit ΔW‖ of the finite effect; ≥ 0, NaN where there is none."""
    seconds: float
    """Wall time of the replay."""
