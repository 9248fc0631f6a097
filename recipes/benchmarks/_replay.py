"""The fidelity benchmark's callbacks: the monitor after a warm-up, and its steps taken again without each row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from _access import captured_rows, measure_targets, other_products, target_gradients, target_names, trained_weights
from _agreement import Collected, StepFigures
from _leave_one_out import leave_one_out
from _rivals import RIVALS, Moments, moments, scores
from _slices import Rows, slices
from torch import Tensor
from transformers import TrainerCallback

from smda_monitor.callback import SMDACallback
from smda_monitor.instruments.optimizer_step import bare_optimizer
from smda_monitor.maths.totals import unexplained_of_probes
from smda_monitor.monitor.run import MonitoredRun
from smda_monitor.records.account import StepAccount


@dataclass(frozen=True, slots=True)
class StepLeftOut:
    """What is kept from before a step until its account is there."""

    rows: Rows
    """Unclipped gradients of its rows."""
    moments: list[Moments]
    """The optimizer's state before it, by parameter."""
    truth: Tensor
    """(n, K) exact effects of its rows."""
    rounding: Tensor
    """(1, K) one state measured by another library's products, minus itself."""


class LateMonitor(SMDACallback):
    """The monitor from the end of step `after` on, with a policy fitted then; earlier steps are trained without it."""

    def __init__(self, config: dict[str, Any], rows: Any, after: int) -> None:
        # Coefficients' intervals and what answers show are no figures of this benchmark.
        policy = {**config["policy"], "mismatch": "refit", "bootstrap": 0}
        behaviour = {**config.get("behaviour", {}), "answers": None}
        super().__init__({**config, "policy": policy, "behaviour": behaviour}, rows=rows)
        self.after = after

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begins at once where there are no steps to wait for."""
        if state.global_step >= self.after:
            super().on_train_begin(args, state, control, **kwargs)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begins after the last of them."""
        if self.run is None:
            self.on_train_begin(args, state, control, **kwargs)
        else:
            super().on_step_end(args, state, control, **kwargs)


class Replayer(TrainerCallback):
    """Stands behind `monitor` in the trainer's callbacks; `collected` fills as training goes on.

    Args:
        monitor: The callback whose figures are judged, of every step that it accounts for.
    """

    def __init__(self, monitor: SMDACallback) -> None:
        self.monitor = monitor
        self.collected = Collected()
        self._step: StepLeftOut | None = None

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Leaves every row out of the coming step; model and optimizer are as before, bit for bit."""
        if self.monitor.run is None:
            return
        run, optimizer = self._run(), bare_optimizer(kwargs["optimizer"])
        weights, (count, rows) = trained_weights(run), captured_rows(run)
        max_norm = float(args.max_grad_norm or 0.0)
        truth = leave_one_out(optimizer, weights, count, rows, max_norm, lambda: measure_targets(run))
        whole = measure_targets(run)
        with other_products():
            rounding = (measure_targets(run) - whole)[None]
        self._step = StepLeftOut(rows, [moments(optimizer, w) for w in weights], truth, rounding)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Puts the account's figures and the rivals' beside the exact ones."""
        if self._step is None:
            return
        left_out, self._step = self._step, None
        run = self._run()
        account = run.accounts[-1]
        if account.step != state.global_step:
            raise RuntimeError(f"the account of step {state.global_step} is missing; the latest is {account.step}")
        others = rivals(run, left_out, account.clip_factor)
        for k, name in enumerate(target_names(run)):
            own = {kind: [getattr(row, kind)[name] for row in account.rows] for kind in ("push", "share")}
            estimates = {kind: torch.tensor(values, dtype=torch.float64) for kind, values in own.items()}
            estimates |= {rival: found[:, k] for rival, found in others.items()}
            figures = StepFigures(
                left_out.truth[:, k], estimates, left_out.rounding[:, k], unexplained(run, account, name)
            )
            self.collected.add(name, figures)

    def _run(self) -> MonitoredRun:
        assert self.monitor.run is not None
        return self.monitor.run


def unexplained(run: MonitoredRun, account: StepAccount, target: str) -> float:
    """The account's unexplained fraction of `target`: of a pathway, of its own balance; of what probes are read for,
    over these probes one by one (`unexplained_of_probes`)."""
    reading, _, group = target.partition(".")
    if not group:
        return account.balance(target).unexplained_fraction
    groups = {probe.id: (probe.kind, f"{probe.kind}.{probe.category}") for probe in run.instruments.bench.probes}
    return unexplained_of_probes(account, reading, [j for j, i in enumerate(account.probe_ids) if group in groups[i]])


def rivals(run: MonitoredRun, step: StepLeftOut, clip: float) -> dict[str, Tensor]:
    """By rival: (n, K) its figures for the same rows, with the same target gradients at θ_{t+1}."""
    n, K = step.truth.shape
    found = {name: torch.zeros(n, K, dtype=torch.float64) for name in RIVALS}
    targets = target_gradients(run)
    for piece in slices(trained_weights(run)):
        g, towards = clip * step.rows.dense(piece.start, piece.stop), targets.dense(piece.start, piece.stop)
        at = step.moments[piece.parameter].part(piece.inside)
        for name, part in scores(g, towards, at).items():
            found[name] += part.cpu()
    return found
