"""The probes on the model as it is: those of the step plan, without or with gradients, or the whole set."""

from __future__ import annotations

from ..maths.probe_gradients import ProbeGradients
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


def measure_whole(instruments: Instruments, step: int) -> Snapshot:
    """Every probe of the set, without a graph; training is not disturbed (`quiet`)."""
    probes, reader = instruments.bench.probes, instruments.reader
    with quiet(reader.model):
        measured = reader.measure(instruments.tokens(list(range(len(probes)))))
    return reader.snapshot(step, probes.ids, measured)


def _snapshot(instruments: Instruments, step: int, measured: Measurement) -> Snapshot:
    return instruments.reader.snapshot(step, instruments.plan.probe_ids, measured)
