"""A step replayed without one of its rows, or on any other gradient, and measured on the step plan's probes."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..maths.leave_one_out import WholeGradient, whole_gradient
from ..records.snapshot import Snapshot
from .assemble import Instruments
from .parameters import TrainedParameters
from .rehearsal import rehearsal


def measure_plan(instruments: Instruments, step: int) -> Snapshot:
    """The step plan's probes on the model as it is, without a graph; the model should be in eval mode (`quiet`)."""
    plan, reader = instruments.plan, instruments.reader
    measured = reader.measure(instruments.tokens(plan.chosen))
    return reader.snapshot(step, [plan.probes.ids[i] for i in plan.chosen], measured)


def replay(
    optimizer: Any, instruments: Instruments, parameters: TrainedParameters, gradient: Tensor, step: int
) -> tuple[Snapshot, Tensor]:
    """What the coming step number `step` would lead to with the clipped `gradient` (p,): the probes, and the parameters
    (p,) float64. Everything is as before afterwards (`rehearsal`)."""
    with rehearsal(optimizer, instruments.reader.model, parameters) as take:
        take(gradient)
        return measure_plan(instruments, step), parameters.flatten(parameters.weights)


def replay_without(
    optimizer: Any,
    instruments: Instruments,
    parameters: TrainedParameters,
    gradient: WholeGradient,
    row: Tensor,
    max_norm: float,
    step: int,
) -> Snapshot:
    """The probes after the coming step without the row of unclipped gradient `row` (p,), clipped anew at `max_norm`."""
    return replay(optimizer, instruments, parameters, gradient.without(row, max_norm), step)[0]


@dataclass(frozen=True, slots=True)
class RowReplays:
    """A step of n rows replayed without each of them, and without any gradient, before it is taken."""

    gradient: WholeGradient
    """Of the step."""
    without: tuple[Snapshot, ...]
    """The probes after the step without row i, n of them."""
    ends: Tensor
    """(n, p) the parameters after the step without row i, in a type that holds them without rounding."""
    alone: Snapshot
    """The probes after the step that the optimizer takes on a zero gradient."""
    seconds: float
    """Wall time of the replays."""

    def directions(self, end: Tensor) -> Tensor:
        """(n, p) δ_i: the parameters `end` (p,) after the step less those after the step without row i."""
        found = torch.empty_like(self.ends)
        for i, without in enumerate(self.ends):
            found[i] = end - without.double()
        return found


def replay_rows(
    optimizer: Any,
    instruments: Instruments,
    parameters: TrainedParameters,
    rows: Tensor,
    clipped: Tensor,
    max_norm: float,
    step: int,
) -> RowReplays | None:
    """n + 1 replays of the coming step, whose unclipped rows are `rows` (n, p) and whose whole gradient is `clipped`
    (p,); None where there is nothing to leave out (`whole_gradient`)."""
    clock = time.perf_counter()
    gradient = whole_gradient(rows, clipped)
    if gradient is None:
        return None
    exact = max((w.dtype for w in parameters.weights), key=lambda kind: torch.finfo(kind).bits)
    without, ends = [], torch.empty_like(rows, dtype=torch.promote_types(exact, torch.float32))
    for i, row in enumerate(rows):
        snapshot, ends[i] = replay(optimizer, instruments, parameters, gradient.without(row, max_norm), step)
        without.append(snapshot)
    alone, _ = replay(optimizer, instruments, parameters, torch.zeros_like(clipped), step)
    return RowReplays(gradient, tuple(without), ends, alone, time.perf_counter() - clock)
