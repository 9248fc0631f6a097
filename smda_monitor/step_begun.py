"""What is read, and replayed where need be, just before an optimizer step. Wiring, no arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .errors import MeasurementError, describe
from .instruments.assemble import Instruments
from .instruments.optimizer_step import bare_optimizer, read_step, step_was_skipped
from .instruments.parameters import TrainedParameters
from .instruments.replay import RowReplays, replay_rows
from .instruments.row_capture import RowCapture
from .maths.step_map import StepMap
from .maths.step_parts import StepParts, replay_parts
from .records.account import Method
from .records.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class StepBegun:
    """What is kept until the step is taken."""

    optimizer: Any
    """As the trainer gave it: in Accelerate's wrapper."""
    clipped: Tensor
    """(p,) the whole clipped gradient."""
    learning_rate: float
    """Of the first parameter group."""
    step: StepMap | None
    """The optimizer's map at its state before the step; None where it is not known."""
    replays: RowReplays | None
    """Of the step without each row, where it is not known; None too where its gradient is nothing, NaN or Inf."""

    @property
    def was_skipped(self) -> bool:
        """Asked after the step: whether a gradient scaler let it go by."""
        return step_was_skipped(self.optimizer)

    def parts(
        self, instruments: Instruments, parameters: TrainedParameters, before: Snapshot, after: Snapshot
    ) -> StepParts:
        """Of a step that was replayed and then taken. Raises `MeasurementError` where it could not be replayed."""
        if self.replays is None:
            remedy = "look at the loss and the learning rate: there is nothing, NaN or Inf to leave a row out of."
            raise MeasurementError(describe("gradient of the step", "no usable one", "finite, not zero", remedy))
        known = self.replays
        directions = known.directions(parameters.flatten(parameters.weights))
        plan = instruments.plan.targets
        return replay_parts(plan, known.gradient, directions, before, known.alone, known.without, after)


def begin_step(
    method: Method,
    optimizer: Any,
    instruments: Instruments,
    parameters: TrainedParameters,
    capture: RowCapture,
    max_norm: float,
    step: int,
) -> StepBegun:
    """The coming step number `step`, whose gradient is whole and clipped; under ``replay`` also without each row."""
    gradients = [w.grad if w.grad is not None else torch.zeros_like(w) for w in parameters.weights]
    clipped = parameters.flatten(gradients)
    rate = float(bare_optimizer(optimizer).param_groups[0]["lr"])
    if method == "split":
        return StepBegun(optimizer, clipped, rate, read_step(optimizer, parameters), None)
    rows = capture.gradients()
    return StepBegun(
        optimizer, clipped, rate, None, replay_rows(optimizer, instruments, parameters, rows, clipped, max_norm, step)
    )
