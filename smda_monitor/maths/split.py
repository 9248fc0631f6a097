"""One optimizer step split among its rows, in parameter space (`step_map` for the formulas; `read_split` reads it).

A `TakenStep` keeps what the split needs until the account is made; directions are formed from it range by range, so
that no more than a range of them is ever held.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from .row_gradients import RowGradients
from .step_map import StepMap, WholeStep, clip_factor, push_direction

SLAB = 1 << 18
"""Elements of the flat vector that are worked on at a time."""


@dataclass(frozen=True, slots=True)
class TakenStep:
    """An optimizer step of n rows over p parameters."""

    number: int
    """The step, counted from 1."""
    step: WholeStep
    """The optimizer's map at its state before the step."""
    rows: RowGradients
    """Unclipped gradients g_i of the n rows."""
    clipped: Float[Tensor, " p"]
    """The gradient that the optimizer saw."""
    clip_factor: float
    """c, measured: ⟨clipped, G⟩/⟨G, G⟩."""
    without: Float64[Tensor, " n"]
    """c_i', the clip factor of the step without row i."""
    norms: Float64[Tensor, " n"]
    """‖g_i‖."""
    capture_error: float
    """‖clipped − c·G‖/‖clipped‖: 0 where the rows' gradients are all of the optimizer's."""


def take_step(
    number: int, step: WholeStep, rows: RowGradients, clipped: Float[Tensor, " p"], max_norm: float
) -> TakenStep:
    """The step that `step` takes with the `clipped` gradient, whose unclipped rows are `rows`.

    Raises `ValueError` where the step has no gradient at all.
    """
    squares, along = torch.zeros(rows.rows, dtype=torch.float64), torch.zeros(rows.rows, dtype=torch.float64)
    square = cross = seen = 0.0
    for start in range(0, rows.size, SLAB):
        part = rows.dense(start, start + SLAB).double()
        total, optimizer = part.sum(0), clipped[start : start + SLAB].double()
        squares += part.square().sum(1).cpu()
        along += (part @ total).cpu()
        square += float(total @ total)
        cross += float(optimizer @ total)
        seen += float(optimizer @ optimizer)
    if square == 0 or seen == 0:
        raise ValueError("the step has no gradient to split")
    factor = cross / square
    missed = max(0.0, seen - 2 * factor * cross + factor * factor * square)
    rest = (square - 2 * along + squares).clamp(min=0).sqrt()
    without = torch.tensor([clip_factor(norm, max_norm) for norm in rest.tolist()], dtype=torch.float64)
    return TakenStep(number, step, rows, clipped, factor, without, squares.sqrt(), (missed / seen) ** 0.5)


@dataclass(frozen=True, slots=True)
class Directions:
    """What one step did to q elements, by cause."""

    shares: Float64[Tensor, "n q"]
    """u_i: adds up, with history and decay, to the update."""
    push: Float64[Tensor, "n q"]
    """δ_i: what the update would have lacked without row i."""
    history: Float64[Tensor, " q"]
    """Momentum's part."""
    decay: Float64[Tensor, " q"]
    """Weight decay's part."""
    momentum_scale: Float64[Tensor, " q"]
    """What an earlier row's part of the momentum buffer is multiplied by to give its part of `history`."""


def directions(taken: TakenStep, part: StepMap, start: int, stop: int) -> Directions:
    """The directions of `taken` over the elements from `start` to before `stop`, whose map is `part`."""
    rows = taken.rows.dense(start, stop).double()
    clipped, total = taken.clipped[start:stop].double(), rows.sum(0)
    update = part.update(taken.clip_factor * total)
    push = [push_direction(part, update, total, row, c) for row, c in zip(rows, taken.without.tolist(), strict=True)]
    return Directions(
        taken.clip_factor * part.share_scale(clipped) * rows,
        torch.stack(push),
        part.history(clipped),
        part.decay(clipped),
        part.momentum_scale(clipped),
    )
