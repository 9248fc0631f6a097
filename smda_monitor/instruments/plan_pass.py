"""Probes on the model as it is: those of the step plan, without or with gradients, or any whole set.

Ranks that train together measure a share of them each, and all have what all measured.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..maths.probe_gradients import ProbeGradients
from ..records.probes import ProbeSet
from ..records.snapshot import Snapshot
from .assemble import Instruments
from .chat import PromptTokens
from .measurement import Measurement, in_order
from .parameters import TrainedParameters
from .quiet import quiet


def measure_plan(instruments: Instruments, step: int) -> Snapshot:
    """The step plan's probes, without a graph; the model should be in eval mode (`quiet`)."""
    return _snapshot(instruments, step, _measured(instruments, instruments.tokens(instruments.plan.chosen)))


def plan_gradients(
    instruments: Instruments, parameters: TrainedParameters, step: int
) -> tuple[Snapshot, ProbeGradients]:
    """The same with the gradients of the plan's columns at `parameters`, each rank with its own part of them; the model
    should be in eval mode."""
    prompts, targets = instruments.tokens(instruments.plan.chosen), instruments.plan.targets
    found = [ProbeGradients.nothing(len(prompts))]

    def measured(numbers: Sequence[int]) -> Measurement:
        own, cotangent_X = [prompts[i] for i in numbers], targets.cotangent_X[list(numbers)]
        here, gradients = instruments.reader.gradients(own, cotangent_X, targets.coef, parameters)
        found.append(gradients.among(numbers, len(prompts)))
        return here

    whole = in_order(*instruments.ranks.by_share(len(prompts), measured))
    return _snapshot(instruments, step, whole), found[-1]


def measure_set(instruments: Instruments, probes: ProbeSet, step: int) -> Snapshot:
    """All of `probes`, without a graph; training is not disturbed (`quiet`)."""
    with quiet(instruments.reader.model):
        measured = _measured(instruments, [instruments.bench.encode(probe.prompt) for probe in probes])
    return instruments.reader.snapshot(step, probes.ids, measured)


def _measured(instruments: Instruments, prompts: Sequence[PromptTokens]) -> Measurement:
    measure = instruments.reader.measure
    return in_order(*instruments.ranks.by_share(len(prompts), lambda own: measure([prompts[i] for i in own])))


def _snapshot(instruments: Instruments, step: int, measured: Measurement) -> Snapshot:
    return instruments.reader.snapshot(step, instruments.plan.probe_ids, measured)
