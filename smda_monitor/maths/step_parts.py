"""A step made up of its rows, on every target and probe: by the exact split of a known step, or by replays of any.

By replays, with τ measured on the probes after the step, after the same step without row i, after the step that the
optimizer takes on a zero gradient, and before:

    push_i = share_i = τ(with) − τ(without i)     history = τ(zero gradient) − τ(before)     decay = 0
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ..errors import MeasurementError, describe
from ..records.account import Method
from ..records.snapshot import Snapshot
from .leave_one_out import WholeGradient
from .split import SplitOnTargets, StepSplit, on_targets
from .targets import TargetGradients, TargetPlan

CAPTURE_LIMIT = {"float32": 1e-3, "bfloat16": 5e-2}
"""Largest ‖Σ g_i·c − gradient‖/‖gradient‖ that is a rounding error, by the type of the trainer's forward."""


@dataclass(frozen=True, slots=True)
class StepParts:
    """The parts of one step of n rows, whichever way they were found."""

    method: Method
    """How, see `StepAccount.method`."""
    clip_factor: float
    """Measured ratio of the clipped to the unclipped gradient."""
    capture_error: float
    """‖gradient − c·Σ g_i‖/‖gradient‖: 0 where the rows' gradients are all of the optimizer's."""
    directions: Float[Tensor, "n p"]
    """δ_i: the parameters after the step less those after the step without row i."""
    on_targets: SplitOnTargets
    """Shares, pushes, history and decay on the K targets."""
    dots: Float64[Tensor, "n m"]
    """What each row did to y of every measured probe: first order by the split, finite by replay."""


def split_parts(
    split: StepSplit, rows: Float[Tensor, "n p"], before: Float[Tensor, "K p"], after: TargetGradients
) -> StepParts:
    """Of a known step: `rows` are the unclipped gradients, `before` and `after` the targets' at both ends."""
    targets = on_targets(split, rows, before, after.gradients)
    return StepParts("split", split.clip_factor, split.capture_error, split.push, targets, after.dots)


def replay_parts(
    plan: TargetPlan,
    gradient: WholeGradient,
    directions: Float[Tensor, "n p"],
    before: Snapshot,
    alone: Snapshot,
    without: Sequence[Snapshot],
    after: Snapshot,
) -> StepParts:
    """Of any step, from snapshots of the plan's probes: `before` the step, `after` it, after it `without` each row, and
    after the step of a zero gradient (`alone`)."""
    push = torch.stack([plan.measure(w, after) for w in without])
    history = plan.measure(before, alone)
    targets = SplitOnTargets(push, push, history, torch.zeros_like(history))
    dots = torch.stack([after.y - w.y for w in without])
    return StepParts("replay", gradient.clip_factor, gradient.capture_error, directions, targets, dots)


def check_capture(parts: StepParts, limit: float, step: int) -> None:
    """Raises `MeasurementError` where the rows' gradients miss more than `limit` of the optimizer's."""
    if not parts.capture_error <= limit or not abs(parts.clip_factor) < float("inf"):
        found = f"rows' gradients that miss {parts.capture_error:.1%} of the optimizer's at step {step}"
        remedy = "train with SFTTrainer's own loss; another callback or hook changes gradients."
        raise MeasurementError(describe("capture", found, f"at most {limit:.1%}", remedy))
