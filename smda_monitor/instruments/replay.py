"""A step replayed without one of its rows, or on any other gradient, and measured on the step plan's probes."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..maths.split import StepGradient
from ..records.snapshot import Snapshot
from .assemble import Instruments
from .parameters import TrainedParameters
from .plan_pass import measure_plan
from .rehearsal import rehearsal


def replay(
    optimizer: Any, instruments: Instruments, parameters: TrainedParameters, gradient: Tensor, step: int
) -> tuple[Snapshot, Tensor]:
    """What the coming step number `step` would lead to with the clipped `gradient` (p,): the probes, and the parameters
    (p,). Everything is as before afterwards (`rehearsal`)."""
    with rehearsal(optimizer, instruments.reader.model, parameters) as take:
        take(gradient)
        return measure_plan(instruments, step), parameters.flatten(parameters.weights)


def replay_without(
    optimizer: Any,
    instruments: Instruments,
    parameters: TrainedParameters,
    gradient: StepGradient,
    row: int,
    step: int,
) -> Snapshot:
    """The probes after the coming step of `gradient` without one of its rows, clipped anew."""
    return replay(optimizer, instruments, parameters, gradient.left_out(row), step)[0]


@dataclass(frozen=True, slots=True)
class RowReplays:
    """A step of n rows replayed without each of them, and without any gradient, before it is taken."""

    without: tuple[Snapshot, ...]
    """The probes after the step without row i, n of them."""
    ends: Tensor
    """(n, p) the parameters after the step without row i."""
    alone: Snapshot
    """The probes after the step that the optimizer takes on a zero gradient."""
    seconds: float
    """Wall time of the replays."""

    def directions(self, end: Tensor) -> Tensor:
        """(n, p) δ_i: the parameters `end` (p,) after the step less those after the step without row i."""
        return end - self.ends


def replay_rows(
    optimizer: Any, instruments: Instruments, parameters: TrainedParameters, gradient: StepGradient, step: int
) -> RowReplays:
    """n + 1 replays of the coming step of `gradient`."""
    clock = time.perf_counter()
    alone, end = replay(optimizer, instruments, parameters, torch.zeros_like(gradient.clipped), step)
    without, ends = [], end.new_empty(gradient.rows.rows, len(end))
    for row in range(len(ends)):
        snapshot, ends[row] = replay(optimizer, instruments, parameters, gradient.left_out(row), step)
        without.append(snapshot)
    return RowReplays(tuple(without), ends, alone, time.perf_counter() - clock)
