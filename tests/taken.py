"""A taken step from rows that are one matrix."""

from __future__ import annotations

from torch import Tensor

from smda_monitor.maths.row_gradients import RowGradients
from smda_monitor.maths.split import TakenStep, step_gradient
from smda_monitor.maths.step_map import WholeStep


def take_step(number: int, step: WholeStep, rows: Tensor, clipped: Tensor, max_norm: float) -> TakenStep:
    return TakenStep(number, step_gradient(RowGradients.of(rows), clipped, max_norm), step)
