"""One optimizer step split among its rows, in parameter space (`step_map` for the formulas; `read_split` reads it).

With the gradient g = c·G that the optimizer saw, rows g_i captured before clipping, and c = ⟨g, Σ g_i⟩/‖Σ g_i‖²:

    G = g/c        without row i: c_i'·(G − g_i),   c_i' = min(1, max_norm/(‖G − g_i‖ + 1e-6))

and each row's part of g is closed, so that shares add up to the step taken where rounding (in bf16 some percent of an
element in which rows nearly cancel) stands between g and c·Σ g_i:

    part_i = c·g_i + (g − c·Σ g_j)∘|g_i| / Σ |g_j|

The loss's denominator stays. G is taken from the optimizer's own gradient rather than from Σ g_i, so that what the
capture misses (rounding, in bf16 some percent) is in the step with the row and in the step without it alike.

A `TakenStep` keeps what the split needs until the account is made; directions are formed from it range by range, so
that no more than a range of them is ever held.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from .portions import portions
from .row_gradients import RowGradients
from .step_map import StepMap, WholeStep, clip_factor, push_directions

SLAB = 1 << 16
"""Elements of the flat vector that are worked on at a time: of some rows of them a processor's cache holds most."""


@dataclass(frozen=True, slots=True)
class StepGradient:
    """The gradient of one step and its n rows, over p parameters."""

    clipped: Float[Tensor, " p"]
    """g, as the optimizer saw it."""
    rows: RowGradients
    """Unclipped gradients g_i of the n rows."""
    clip_factor: float
    """c, measured; 1 where the rows have no gradient at all."""
    without: Float64[Tensor, " n"]
    """c_i', the clip factor of the step without row i."""
    norms: Float64[Tensor, " n"]
    """‖g_i‖."""
    capture_error: float
    """‖g − c·Σ g_i‖/‖g‖: 0 where the rows' gradients are all of the optimizer's."""
    scaled: float = 1.0
    """c over the clip factor of the rows' sum: 1 where nothing but the clipping scaled the gradient."""

    def left_out(self, row: int) -> Float[Tensor, " p"]:
        """c_i'·(G − g_i): what the optimizer would have seen without the row."""
        factor, found = float(self.without[row]), torch.empty_like(self.clipped)
        for part in portions(self.rows.size, SLAB):
            here = slice(part.start, part.stop)
            total = self.clipped[here].double() / self.clip_factor
            found[here] = factor * (total - self.rows.dense(part.start, part.stop)[row].double())
        return found


def step_gradient(rows: RowGradients, clipped: Float[Tensor, " p"], max_norm: float) -> StepGradient:
    """Of a step with the `clipped` gradient, whose unclipped rows are `rows`; `max_norm` 0 never clips."""
    squares, along = torch.zeros(rows.rows, dtype=torch.float64), torch.zeros(rows.rows, dtype=torch.float64)
    square = cross = seen = 0.0
    for here in portions(rows.size, SLAB):
        part, optimizer = rows.dense(here.start, here.stop).double(), clipped[here.start : here.stop].double()
        captured = part.sum(0)
        squares += part.square().sum(1).cpu()
        along += (part @ optimizer).cpu()
        square += float(captured @ captured)
        cross += float(optimizer @ captured)
        seen += float(optimizer @ optimizer)
    factor = cross / square if square > 0 and cross != 0 else 1.0
    missed = max(0.0, seen - 2 * factor * cross + factor * factor * square)
    rest = (seen / factor**2 - 2 * along / factor + squares).clamp(min=0).sqrt()
    without = torch.tensor([clip_factor(norm, max_norm) for norm in rest.tolist()], dtype=torch.float64)
    error = (missed / seen) ** 0.5 if seen > 0 else float(square > 0)
    if not math.isfinite(seen + square):
        error = math.nan
    clipping = clip_factor(math.sqrt(square), max_norm) if square > 0 and cross != 0 else 0.0
    scaled = factor / clipping if clipping > 0 else 1.0
    return StepGradient(clipped, rows, factor, without, squares.sqrt(), error, scaled)


@dataclass(frozen=True, slots=True)
class TakenStep:
    """An optimizer step of n rows over p parameters."""

    number: int
    """The step, counted from 1."""
    gradient: StepGradient
    """Its gradient."""
    step: WholeStep
    """The optimizer's map at its state before the step."""

    @property
    def rows(self) -> RowGradients:
        """The rows' gradients."""
        return self.gradient.rows


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


def closed_rows(
    rows: Float64[Tensor, "n q"], clipped: Float64[Tensor, " q"], clip_factor: float
) -> Float64[Tensor, "n q"]:
    """part_i of every row: adds up to the gradient `clipped` that the optimizer saw, wherever any row has one."""
    sizes = rows.abs()
    missing = (clipped - clip_factor * rows.sum(0)).div_(sizes.sum(0).clamp_(min=torch.finfo(torch.float64).tiny))
    return sizes.mul_(missing).add_(rows, alpha=clip_factor)


def directions(gradient: StepGradient, part: StepMap, start: int, stop: int) -> Directions:
    """The directions of a step over the elements from `start` to before `stop`, whose map is `part`."""
    rows, clipped = gradient.rows.dense(start, stop).double(), gradient.clipped[start:stop].double()
    total, without = clipped / gradient.clip_factor, gradient.without.to(rows.device)
    return Directions(
        closed_rows(rows, clipped, gradient.clip_factor).mul_(part.share_scale(clipped)),
        push_directions(part, part.update(clipped), total, rows, without),
        part.history(clipped),
        part.decay(clipped),
        part.momentum_scale(clipped),
    )
