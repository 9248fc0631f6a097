"""The detection benchmark's callback: what a run's monitors and other methods say of every row, step by step.

The gradient rivals read the row on one target, the unintended one of a monitor's behaviour:

    τ = mean over probes of the kinds on which it is not wanted − mean over those on which it is,   mass, nats
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from _access import captured_rows, coming_step, target_gradients, target_names, trained_weights
from _rivals import moments, scores
from _slices import slices
from torch import Tensor
from transformers import TrainerCallback

from smda_monitor.callback import SMDACallback
from smda_monitor.instruments.optimizer_step import bare_optimizer
from smda_monitor.monitor.run import MonitoredRun
from smda_monitor.records.probes import KINDS

GRADIENT_RIVALS = ("raw_dot", "less")
"""Of `_rivals`, those that stand beside the row score."""


class Witness(TrainerCallback):
    """Stands behind `monitors`, by behaviour, in the trainer's callbacks; `found` fills as training goes on: by row id
    of a behaviour what each gradient rival says, higher more suspicious."""

    def __init__(self, monitors: Mapping[str, SMDACallback]) -> None:
        self.monitors = monitors
        self.found: dict[str, dict[str, dict[str, float]]] = {name: {} for name in monitors}

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Reads the rows of the coming step at the weights before it."""
        for behaviour, monitor in self.monitors.items():
            run = monitor.run
            assert run is not None
            by_rival = rivals(run, bare_optimizer(kwargs["optimizer"]), monitor.config.behaviour.wanted_on == "harmful")
            for i, fact in enumerate(coming_step(run).facts):
                told = {rival: float(values[i]) for rival, values in by_rival.items()}
                self.found[behaviour][fact.row_id] = told


def rivals(run: MonitoredRun, optimizer: Any, wanted_on_harmful: bool) -> dict[str, Tensor]:
    """By rival: (n,) what the n rows of the coming step do to the unintended target."""
    count, rows = captured_rows(run)
    found = {name: torch.zeros(count, dtype=torch.float64) for name in GRADIENT_RIVALS}
    towards, coefficients = target_gradients(run), unintended_target(target_names(run), wanted_on_harmful)
    clip = coming_step(run).gradient.clip_factor
    for piece in slices(trained_weights(run)):
        target = coefficients[None] @ towards.dense(piece.start, piece.stop).double()
        at = moments(optimizer, trained_weights(run)[piece.parameter]).part(piece.inside)
        told = scores(clip * rows.dense(piece.start, piece.stop), target, at)
        for name in found:
            found[name] += told[name][:, 0].cpu()
    return found


def unintended_target(names: Sequence[str], wanted_on_harmful: bool) -> Tensor:
    """(K,) coefficients in τ of an account's K targets by their `names`."""
    found = torch.zeros(len(names), dtype=torch.float64)
    harmless = [f"mass.{kind}" for kind in KINDS if kind != "harmful" and f"mass.{kind}" in names]
    sign = 1.0 if wanted_on_harmful else -1.0
    for name in harmless:
        found[names.index(name)] = sign / len(harmless)
    if "mass.harmful" in names:
        found[names.index("mass.harmful")] = -sign
    return found
