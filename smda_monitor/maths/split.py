"""One optimizer step split among its rows, on every target (`step_map` for the formulas).

    share_i(τ) = ⟨u_i, ½(∇τ_before + ∇τ_after)⟩       adds up, with history and decay, to the step's first order
    push_i(τ)  = ⟨δ_i, ∇τ_after⟩                       what the step would have lacked without row i

The trapezoid average takes the shares' error from some percent to some hundredths of a percent; the push is taken at
the step's end, where the row was present.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from .step_map import StepMap, push_direction


@dataclass(frozen=True, slots=True)
class StepSplit:
    """A step of n rows over p parameters, before it is read on targets."""

    clip_factor: float
    """Measured ⟨clipped, G⟩/⟨G, G⟩."""
    capture_error: float
    """‖clipped − c·G‖/‖clipped‖: 0 where the rows' gradients are all of the optimizer's."""
    row_scale: Float64[Tensor, " p"]
    """share direction u_i = row_scale ∘ g_i."""
    history: Float64[Tensor, " p"]
    """Momentum's part of the update."""
    decay: Float64[Tensor, " p"]
    """Weight decay's part."""
    push: Float[Tensor, "n p"]
    """δ_i of every row, in the type of the rows' gradients."""


def split_step(rows: Float[Tensor, "n p"], clipped: Float64[Tensor, " p"], step: StepMap, max_norm: float) -> StepSplit:
    """The split of the step that `step` takes with the `clipped` gradient, whose unclipped rows are `rows`.

    Raises `ValueError` where the step has no gradient at all.
    """
    total = rows.double().sum(0)
    square = float(total @ total)
    norm = float(clipped.norm())
    if square == 0 or norm == 0:
        raise ValueError("the step has no gradient to split")
    factor = float(clipped @ total) / square
    update = step.update(factor * total)
    push = torch.empty_like(rows)
    for i, row in enumerate(rows):
        push[i] = push_direction(step, update, total, row.double(), max_norm).to(rows.dtype)
    return StepSplit(
        factor,
        float((clipped - factor * total).norm()) / norm,
        factor * step.share_scale(clipped),
        step.history(clipped),
        step.decay(clipped),
        push,
    )


@dataclass(frozen=True, slots=True)
class SplitOnTargets:
    """The split read on K targets."""

    shares: Float64[Tensor, "n K"]
    """Of every row."""
    push: Float64[Tensor, "n K"]
    """Of every row."""
    history: Float64[Tensor, " K"]
    """Momentum's part."""
    decay: Float64[Tensor, " K"]
    """Weight decay's part."""


def on_targets(
    split: StepSplit, rows: Float[Tensor, "n p"], before: Float[Tensor, "K p"], after: Float[Tensor, "K p"]
) -> SplitOnTargets:
    """`split` read on targets with gradients `before` and `after` the step."""
    middle = (before.double() + after.double()) / 2
    return SplitOnTargets(
        rows.double() @ (middle * split.row_scale).T,
        split.push.double() @ after.double().T,
        middle @ split.history,
        middle @ split.decay,
    )
