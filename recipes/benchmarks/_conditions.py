"""The ways of training that the overhead benchmark compares, and one run of one of them, timed step by step."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, Literal

import _dattri
import torch
from _bed import Bed
from _settings import Settings
from torch import nn
from transformers import TrainerCallback

from smda_monitor.callback import SMDACallback
from smda_monitor.instruments.assemble import open_bench
from smda_monitor.instruments.config_file import load_config
from smda_monitor.instruments.heap import hold_heap, release_heap
from smda_monitor.instruments.parameters import trained_parameters
from smda_monitor.instruments.row_capture import RowCapture

WARM_UP = 2
"""First steps of a run whose time does not count, at least."""


@dataclass(frozen=True, slots=True)
class Condition:
    """One way of training."""

    kind: Literal["plain", "plain_held", "capture", "monitor", "dattri"]
    """Without anything; with freed memory held as under the monitor; with the rows' gradients captured and thrown away;
    with the monitor; with dattri-llm."""
    settings: Settings = field(default_factory=Settings)
    """The monitor's."""

    @property
    def warm_up(self) -> int:
        """First steps of a run whose time does not count: until the history that is handed on is whole."""
        return WARM_UP + self.settings.history_steps

    @property
    def missing(self) -> str | None:
        """Why it cannot be run here, or None."""
        return "not installed" if self.kind == "dattri" and not _dattri.installed() else None


def conditions(history_steps: int, probes: int) -> dict[str, Condition]:
    """By name, in the order in which they take turns."""
    return {
        "plain": Condition("plain"),
        "plain_held": Condition("plain_held"),
        "capture": Condition("capture"),
        "interval_1": Condition("monitor", Settings(per_step=probes)),
        "interval_8": Condition("monitor", Settings(every=8, per_step=probes)),
        "interval_8_own_prompt": Condition("monitor", Settings(every=8, own_prompts=True, per_step=probes)),
        "history": Condition("monitor", Settings(history_steps=history_steps, per_step=probes)),
        "dattri_llm": Condition("dattri", Settings(per_step=probes)),
    }


@dataclass(frozen=True, slots=True)
class Load:
    """What a run trains on."""

    batch: int
    """Rows of a step."""
    tokens: int
    """Tokens of every row."""
    steps: int
    """Timed steps, after the warm-up; a run has as many more as make its last account whole."""


@dataclass(frozen=True, slots=True)
class Timing:
    """One run."""

    steps: list[float]
    """Wall seconds per optimizer step, each the mean of the steps that share an account; without warm-up."""
    monitor: list[float]
    """Seconds of them that the monitor counts as its own (all but the capture's hooks); empty without it."""
    ledger_bytes: int
    """Size of the run's ledger; 0 without one."""

    @property
    def step(self) -> float:
        """Median of `steps`."""
        return median(self.steps)


class Clock(TrainerCallback):
    """Last in the trainer's callbacks: the time, and the monitor's own, at the end of every step.

    It ends training after `steps` steps, before the trainer's own last one, so that what the monitor does when a run is
    over is in no step's time.
    """

    def __init__(self, monitor: SMDACallback | None, steps: int) -> None:
        self._monitor, self._steps = monitor, steps
        self.times: list[float] = []
        self.own: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Notes both."""
        self.times.append(time.perf_counter())
        if self._monitor is not None and self._monitor.run is not None:
            self.own.append(self._monitor.run.monitor_seconds)
        control.should_training_stop = state.global_step >= self._steps


class Captures(TrainerCallback):
    """Puts the capture's hooks on and throws away what they find: no probe pass, no account."""

    def __init__(self) -> None:
        self._capture: RowCapture | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Hooks on."""
        model: nn.Module = kwargs["model"]
        self._capture = RowCapture(model, trained_parameters(model))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The step's rows are let go."""
        assert self._capture is not None
        self._capture.take()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Hooks off."""
        if self._capture is not None:
            self._capture.remove()


def timed_run(bed: Bed, model: Any, condition: Condition, load: Load, name: str) -> Timing:
    """Trains `model` (LoRA) on the same batches as every other run, and puts its weights back afterwards."""
    settings = condition.settings
    blocks = -(-load.steps // settings.every)
    steps = condition.warm_up + blocks * settings.every
    rows = bed.long_rows(load.batch * (steps + 1), load.tokens)
    monitor = bed.monitor(settings, name) if condition.kind == "monitor" else None
    clock = Clock(monitor, steps)
    first = [monitor] if monitor else [Captures()] if condition.kind == "capture" else []
    weights = [w for w in model.parameters() if w.requires_grad]
    saved = [w.detach().clone() for w in weights]
    try:
        trainer = bed.trainer(
            model,
            rows,
            [*first, clock],
            max_steps=steps + 1,
            per_device_train_batch_size=load.batch,
            max_length=load.tokens,
            learning_rate=1e-4,
        )
        with _beside(bed, model, condition):
            trainer.train()
    finally:
        if monitor is not None:
            monitor.close()
        with torch.no_grad():
            for w, old in zip(weights, saved, strict=True):
                w.copy_(old)
        model.zero_grad(set_to_none=True)
    every, first_end = settings.every, condition.warm_up - 1
    own = _per_step(clock.own[first_end:], every)
    return Timing(_per_step(clock.times[first_end:], every), own, _size(bed.folder / name / "ledger"))


@contextmanager
def _beside(bed: Bed, model: Any, condition: Condition) -> Iterator[None]:
    if condition.kind == "plain_held":
        held = hold_heap()
        try:
            yield
        finally:
            if held:
                release_heap()
        return
    if condition.kind != "dattri":
        yield
        return
    bench = open_bench(load_config({**bed.config}), model, bed.tokenizer)
    with _dattri.scored(model, bench, condition.settings.per_step):
        yield


def _per_step(ends: list[float], every: int) -> list[float]:
    """Mean difference over each `every` of the steps that end then."""
    return [(b - a) / every for a, b in pairwise(ends[::every])]


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0
