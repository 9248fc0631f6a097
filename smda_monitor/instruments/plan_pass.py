"""Probes on the model as it is: those of the step plan, without or with gradients, or any whole set."""

from __future__ import annotations

from ..maths.probe_gradients import ProbeGradients
from ..records.probes import ProbeSet
from ..records.snapshot import Snapshot
from .assemble import Instruments
from .measurement import Measurement
from .parameters import TrainedParameters
from .quiet import quiet


def measure_plan(instruments: Instruments, step: int) -> Snapshot:
    """The step plan's probes, without a graph; the model should be in eval mode (`quiet`)."""
    return _snapshot(instruments, step, instruments.reader.measure(instruments.tokens(instruments.plan.chosen)))


def plan_gradients(
    instruments: Instruments, parameters: TrainedParameters, step: int
) -> tuple[Snapshot, ProbeGradients]:
    """The same with the gradients of the plan's columns at `parameters`; the model should be in eval mode."""
    prompts, targets = instruments.tokens(instruments.plan.chosen), instruments.plan.targets
    measured, found = instruments.reader.gradients(prompts, targets.cotangent_X, targets.coef, parameters)
    return _snapshot(instruments, step, measured), found


def measure_set(instruments: Instruments, probes: ProbeSet, step: int) -> Snapshot:
    """All of `probes`, without a graph; training is not disturbed (`quiet`)."""
    reader = instruments.reader
    with quiet(reader.model):
        measured = reader.measure([instruments.bench.encode(probe.prompt) for probe in probes])
    return reader.snapshot(step, probes.ids, measured)


def _snapshot(instruments: Instruments, step: int, measured: Measurement) -> Snapshot:
    return instruments.reader.snapshot(step, instruments.plan.probe_ids, measured)
