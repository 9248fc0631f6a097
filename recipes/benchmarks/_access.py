"""What the benchmarks read of a monitored run that is not public, each in one function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from _slices import Rows
from torch import Tensor

from smda_monitor.instruments.probe_reader import Measurement
from smda_monitor.instruments.quiet import quiet
from smda_monitor.maths.readings import Readings
from smda_monitor.run import MonitoredRun


@dataclass(frozen=True, slots=True)
class Weighted:
    """`Rows` made of weighted columns."""

    weights: Tensor
    """(K, C)"""
    columns: Any
    """(C, p), sliced by ``dense``."""

    def dense(self, start: int, stop: int) -> Tensor:
        """As `Rows.dense`."""
        columns: Tensor = self.columns.dense(start, stop)
        return self.weights @ columns.double()


def captured_rows(run: MonitoredRun) -> tuple[int, Rows]:
    """(n, their unclipped gradients) of the rows of the step that is about to be taken."""
    begun = run.accountant._begun  # the monitor, which stands before, has taken them from the capture
    assert begun is not None
    return begun.gradient.rows.rows, begun.gradient.rows


def target_gradients(run: MonitoredRun) -> Rows:
    """(K, p) gradients of the account's targets at θ_{t+1}, after the account of step t is made."""
    keeper = run.accountant
    return Weighted(keeper.instruments.plan.targets.weights(keeper.before.saturation), keeper._gradients)


def trained_weights(run: MonitoredRun) -> list[Tensor]:
    """The trained parameters in the order of the flat vector."""
    return run.accountant.parameters.weights


def target_names(run: MonitoredRun) -> tuple[str, ...]:
    """Names of the K targets."""
    return run.instruments.plan.targets.names


def measure_targets(run: MonitoredRun, prompts_at_a_time: int | None = None) -> Tensor:
    """(K,) the targets at the present weights less those at the run's start, by a pass without a graph; float64.

    With `prompts_at_a_time` the probes go through in such portions, last ones first: other padding, other sums, other
    rounding.
    """
    instruments = run.instruments
    reader, chosen = instruments.reader, instruments.plan.chosen
    prompts = instruments.tokens(chosen)
    size = prompts_at_a_time or len(prompts)
    starts = range(0, len(prompts), size)
    with quiet(run.model):
        parts = {at: reader.measure(prompts[at : at + size]) for at in reversed(starts)}
    measured = _joined([parts[at] for at in starts])
    ids = [instruments.bench.probes.ids[i] for i in chosen]
    return instruments.plan.targets.measure(run.accountant.start, reader.snapshot(0, ids, measured))


def _joined(parts: Sequence[Measurement]) -> Measurement:
    readings = {f.name: torch.cat([getattr(part.readings, f.name) for part in parts]) for f in fields(Readings)}
    return Measurement(
        torch.cat([part.X for part in parts]), Readings(**readings), torch.cat([part.hidden for part in parts])
    )
