"""What the benchmark of faults is made of: something that happens at a step, something put in place of something else,
and a promise that must hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from _small_run import SmallRun, Weights
from transformers import TrainerCallback

from smda_monitor.outputs.ledger_reader import read_ledger

AT = 3
"""The step at which things go wrong."""
Fault = Callable[[SmallRun, Sequence[Weights]], None]
"""Runs into it, given the weights that plain training has; raises `Broken` where a promise is."""


class Broken(Exception):
    """A promise that was not kept."""


class At(TrainerCallback):
    """Does something at the start, or the end, of step `AT`."""

    def __init__(self, work: Callable[[Any], object], at_end: bool = False) -> None:
        self._work, self._at_end = work, at_end

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Before it."""
        if not self._at_end and state.global_step == AT - 1:
            self._work(kwargs["model"])

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """After it."""
        if self._at_end and state.global_step == AT:
            self._work(kwargs["model"])


def need(held: bool, promise: str) -> None:
    """Raises `Broken` where the `promise` is not kept."""
    if not held:
        raise Broken(promise)


def steps_of(run: SmallRun) -> list[int]:
    """Those that have an account in the run's ledger."""
    return [account.step for account in read_ledger(run.home).accounts]


@contextmanager
def instead(owner: Any, name: str, work: Any) -> Iterator[None]:
    """While open, `work` is what `owner` has under `name`."""
    inner = getattr(owner, name)
    setattr(owner, name, work)
    try:
        yield
    finally:
        setattr(owner, name, inner)
