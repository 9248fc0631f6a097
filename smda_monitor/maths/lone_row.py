"""What a row would do alone: the step that the optimizer takes on its gradient, less the step that it takes on none.

    δ_i = u(c_i·g_i) − u(0),    c_i = min(1, max_norm/(‖g_i‖ + 1e-6))

u is the optimizer's map at one state (`step_map`), the same for every row. Read on the gradients of the columns
(`targets`) at θ + u(0), where the step without the row ends: ⟨δ_i, ∇τ⟩, first order in δ_i.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float64
from torch import Tensor

from .portions import portions
from .probe_gradients import FlatGradients
from .read_split import ColumnGradients
from .row_gradients import RowGradients
from .split import SLAB
from .step_map import StepMap, WholeStep


def lone_directions(
    part: StepMap, gradients: Float64[Tensor, "n q"], factors: Sequence[float]
) -> Float64[Tensor, "n q"]:
    """δ_i over the q elements of `part`, of rows with `gradients` and clip `factors`."""
    clipped = gradients * torch.tensor(factors, dtype=torch.float64, device=gradients.device)[:, None]
    return part.update(clipped).sub_(part.update(torch.zeros_like(gradients[0])))


def row_norms(rows: RowGradients) -> list[float]:
    """‖g_i‖ of every row."""
    squares = torch.zeros(rows.rows, dtype=torch.float64)
    for part in portions(rows.size, SLAB):
        squares += rows.dense(part.start, part.stop).double().square().sum(1).cpu()
    norms: list[float] = squares.sqrt().tolist()
    return norms


def read_alone(
    rows: RowGradients,
    factors: Sequence[float],
    step: WholeStep,
    gradients: ColumnGradients,
    columns: int,
    own: ColumnGradients | None = None,
    own_rows: Sequence[int] = (),
) -> tuple[Float64[Tensor, "n C"], Float64[Tensor, " n"]]:
    """n `rows` with clip `factors`, each alone, on C `columns`; and on their own prompts, whose gradients are in `own`,
    one for each of `own_rows` (NaN for the others)."""
    found = torch.zeros(rows.rows, columns, dtype=torch.float64)
    on_own = torch.full((rows.rows,), float("nan"), dtype=torch.float64)
    on_own[list(own_rows)] = 0
    for _, start, stop, part in step.slabs(SLAB):
        moved = lone_directions(part, rows.dense(start, stop).double(), factors).float()
        for places, towards in gradients.blocks(start, stop):
            found[:, places] += (moved @ towards.T).double().cpu()
        for places, towards in own.blocks(start, stop) if own else ():
            at = torch.tensor(own_rows)[places]
            on_own[at] += (moved[at] * towards).sum(1).double().cpu()
    return found, on_own


def read_parts_alone(
    rows: RowGradients, factors: Sequence[float], step: WholeStep, parts: Iterable[FlatGradients]
) -> Float64[Tensor, "n K"]:
    """As `read_alone`, on the columns of all `parts`, one part after the other, as they come."""
    found = [read_alone(rows, factors, step, part, part.count)[0] for part in parts]
    return torch.cat([torch.zeros(rows.rows, 0, dtype=torch.float64), *found], dim=1)
