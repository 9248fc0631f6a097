"""What the benchmarks read of a monitored run that is not public, each in one function."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from _slices import Rows
from torch import Tensor

from smda_monitor.instruments.plan_pass import measure_plan
from smda_monitor.instruments.quiet import quiet
from smda_monitor.monitor.open_step import OpenStep
from smda_monitor.monitor.run import MonitoredRun


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


def coming_step(run: MonitoredRun) -> OpenStep:
    """The step that is about to be taken."""
    coming = run.accountant.coming
    assert coming is not None
    return coming


def captured_rows(run: MonitoredRun) -> tuple[int, Rows]:
    """(n, their unclipped gradients) of the rows of the coming step."""
    coming = coming_step(run)
    return coming.gradient.rows.rows, coming.gradient.rows


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


@contextmanager
def other_products() -> Iterator[None]:
    """Inside, a CPU's matrix products are another library's than the monitor's: other sums, other rounding."""
    backend: Any = torch.backends.mkldnn
    before, backend.enabled = backend.enabled, False
    try:
        yield
    finally:
        backend.enabled = before


def measure_targets(run: MonitoredRun) -> Tensor:
    """(K,) the targets at the present weights less those at the run's start, by a pass without a graph; float64."""
    with quiet(run.model):
        return run.instruments.plan.targets.measure(run.accountant.start, measure_plan(run.instruments, 0))
