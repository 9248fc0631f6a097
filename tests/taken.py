"""A taken step from rows that are one matrix, a step's map over the whole vector, and steps read at both ends."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from smda_monitor.maths.past import PastStep
from smda_monitor.maths.read_split import ColumnGradients, End, SplitReading, read_end, read_split
from smda_monitor.maths.row_gradients import RowGradients
from smda_monitor.maths.split import TakenStep, step_gradient
from smda_monitor.maths.step_map import WholeStep


def take_step(number: int, step: WholeStep, rows: Tensor, clipped: Tensor, max_norm: float) -> TakenStep:
    return TakenStep(number, step_gradient(RowGradients.of(rows), clipped, max_norm), step)


def across(step: WholeStep, way: str, gradient: Tensor) -> Tensor:
    """What `way` of `StepMap` gives for a gradient (…, p) over all parts of `step`."""
    starts = (0, *step.stops[:-1])
    found = [getattr(part, way)(gradient[..., a:b]) for a, (b, part) in zip(starts, step.parts, strict=True)]
    return torch.cat(found, dim=-1)


def read_between(
    taken: Sequence[TakenStep],
    past: Sequence[PastStep],
    ends: tuple[End, End],
    own: ColumnGradients | None = None,
    own_rows: Sequence[int] = (),
) -> SplitReading:
    first, last = ends
    at_last = read_end(taken, past, last, last=True, own=own, own_rows=own_rows)
    return read_split(taken, read_end(taken, past, first, last=False), at_last)
