"""One monitored run: from the trainer's events to snapshots, accounts, alerts and sinks. Wiring, no arithmetic."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from .errors import MeasurementError, describe
from .instruments.assemble import Instruments
from .instruments.causal import inner_causal
from .instruments.chat import PromptTokens, own_prompt
from .instruments.feature_cards import feature_cards
from .instruments.optimizer_state import bare_optimizer, read_adamw
from .instruments.parameters import trained_parameters
from .instruments.quiet import quiet
from .instruments.row_capture import CapturedRow, RowCapture
from .instruments.row_identity import RowNames, row_text
from .maths.account import OwnReading, RowFacts, balances, feature_shifts, row_entries, unread
from .maths.adamw import AdamWState
from .maths.alerts import threshold_alerts
from .maths.pathways import output_shift
from .maths.split import StepSplit, on_targets, split_step
from .maths.targets import TargetGradients
from .outputs.ledger import Ledger
from .outputs.sink import SinkGroup
from .outputs.summary import refusal_of
from .records.account import WARM_UP_STEPS, StepAccount
from .records.alert import Alert
from .records.snapshot import Snapshot

CAPTURE_LIMIT = {torch.float32: 1e-3, torch.bfloat16: 5e-2}
"""Largest ‖Σ g_i·c − gradient‖/‖gradient‖ that is a rounding error, by type of the forward."""


class MonitoredRun:
    """Takes the trainer's events of one run. All measurements leave the model, its gradients and its random state alone."""

    def __init__(
        self, model: nn.Module, instruments: Instruments, sinks: SinkGroup, ledger: Ledger, names: RowNames,
        tokenizer: Any, max_grad_norm: float, low_precision: bool,
    ) -> None:
        self.model = model
        self.instruments = instruments
        self.sinks = sinks
        self.ledger = ledger
        self.names = names
        self.tokenizer = tokenizer
        self.max_grad_norm = max_grad_norm
        self.capture_limit = CAPTURE_LIMIT[torch.bfloat16 if low_precision else torch.float32]
        self.parameters = trained_parameters(model)
        self.accounts: list[StepAccount] = []
        self.alerts: list[Alert] = []
        self.texts: dict[str, dict[str, Any]] = {}
        self.started = time.perf_counter()
        self.monitor_seconds = 0.0
        self.capture: RowCapture | None = None
        self._pending: tuple[AdamWState, Tensor, float] | None = None
        self._start: Snapshot | None = None
        self.first: Snapshot | None = None
        self.last: Snapshot | None = None
        self._before: Snapshot | None = None
        self._gradients: Tensor | None = None

    def begin(self, step: int, first: Snapshot | None = None) -> None:
        """Before step `step` + 1: the first snapshot (or that of an earlier part of the run), and the hooks."""
        clock = time.perf_counter()
        self._before, found = self._probe(step, torch.zeros(0, self.parameters.size, device=self._device()))
        self._gradients = found.gradients
        if first is None:
            first = self._whole(step)
            self.sinks.snapshot(first)
        self.first = self.last = first
        self._start = self.instruments.plan.part(first)
        self.capture = RowCapture(inner_causal(self.model), self.parameters)
        self.monitor_seconds += time.perf_counter() - clock

    def before_step(self, optimizer: Any) -> None:
        """The gradient is whole and clipped: keep it, and the optimizer's state."""
        clock = time.perf_counter()
        gradients = [w.grad if w.grad is not None else torch.zeros_like(w) for w in self.parameters.weights]
        state = read_adamw(optimizer, self.parameters)
        rate = float(bare_optimizer(optimizer).param_groups[0]["lr"])
        self._pending = (state, self.parameters.flatten(gradients), rate)
        self.monitor_seconds += time.perf_counter() - clock

    def after_step(self, step: int) -> list[Alert]:
        """The step is taken: measure, split, judge, write. Returns the alerts raised."""
        clock = time.perf_counter()
        assert self.capture is not None and self._pending is not None
        assert self._before is not None and self._gradients is not None and self._start is not None
        state, clipped, rate = self._pending
        self._pending = None
        captured, losses, gradients = self.capture.take()
        split = split_step(gradients, clipped, state, self.max_grad_norm)
        self._check_capture(split, step)
        after, found = self._probe(step, split.push)
        targets = on_targets(split, gradients, self._gradients, found.gradients)
        facts = [
            RowFacts(self.names.name(row), row.hash, row.tokens, loss, float(gradient.norm()))
            for row, loss, gradient in zip(captured, losses, gradients, strict=True)
        ]
        account = self._account(step, split, rate, after, targets, found, facts, self._own(captured, split), clock)
        self._before, self._gradients = after, found.gradients
        self._keep_texts(captured, facts)
        self.accounts.append(account)
        self.sinks.account(account)
        raised = self._alerts()
        self.monitor_seconds += time.perf_counter() - clock
        return raised

    def finish(self, step: int, summary: Callable[[], dict[str, Any]]) -> None:
        """The last snapshot of the whole set, the feature cards, and the sinks' end; hooks go, also after an error."""
        assert self._start is not None
        try:
            if self.capture is not None:
                clock = time.perf_counter()
                self.last = last = self._whole(step)
                self.sinks.snapshot(last)
                drift = (self.instruments.plan.part(last).X - self._start.X).double()
                self.ledger.feature_cards(feature_cards(self.instruments, last, drift, self.tokenizer))
                self.monitor_seconds += time.perf_counter() - clock
        finally:
            self.close()
        self.sinks.finish({**summary(), "monitor_seconds": self.monitor_seconds})

    def close(self) -> None:
        """Takes the hooks off."""
        if self.capture is not None:
            self.capture.remove()
            self.capture = None

    @property
    def seconds(self) -> float:
        """Wall time since the run was set up."""
        return time.perf_counter() - self.started

    def refusal(self) -> tuple[dict[str, float], dict[str, float]]:
        """Refusal by reading and kind on the whole set, at the first and at the latest snapshot of it."""
        assert self.first is not None and self.last is not None
        probes = self.instruments.bench.probes
        return refusal_of(self.first, probes), refusal_of(self.last, probes)

    def _device(self) -> torch.device:
        return self.parameters.weights[0].device

    def _whole(self, step: int) -> Snapshot:
        bench, reader = self.instruments.bench, self.instruments.reader
        with quiet(self.model):
            measured = reader.measure(self.instruments.tokens(list(range(len(bench.probes)))))
        return reader.snapshot(step, bench.probes.ids, measured)

    def _probe(self, step: int, directions: Tensor) -> tuple[Snapshot, TargetGradients]:
        instruments = self.instruments
        plan, reader = instruments.plan, instruments.reader
        with quiet(self.model):
            measured, found = reader.targets(
                instruments.tokens(plan.chosen), plan.targets, self.parameters, directions
            )
        ids = [instruments.bench.probes.ids[i] for i in plan.chosen]
        return reader.snapshot(step, ids, measured), found

    def _own(self, captured: list[CapturedRow], split: StepSplit) -> OwnReading:
        instruments = self.instruments
        nothing = unread(len(captured), len(instruments.policy.feature_ids))
        if not instruments.bench.config.probes.own_prompts:
            return nothing
        like = instruments.tokens([0])[0]
        found = {i: own_prompt(row.ids, row.first_label, like) for i, row in enumerate(captured)}
        prompts: dict[int, PromptTokens] = {i: prompt for i, prompt in found.items() if prompt is not None}
        if not prompts:
            return nothing
        at = list(prompts)
        with quiet(self.model):
            measured, push = instruments.reader.own(list(prompts.values()), self.parameters, split.push[at])
        own = OwnReading(nothing.push.clone(), nothing.mass.clone(), nothing.X.clone())
        own.push[at], own.mass[at], own.X[at] = push, measured.readings.mass, measured.X.double()
        return own

    def _account(
        self, step: int, split: StepSplit, rate: float, after: Snapshot, targets: Any, found: TargetGradients,
        facts: list[RowFacts], own: OwnReading, clock: float,
    ) -> StepAccount:
        assert self._before is not None and self._start is not None
        instruments = self.instruments
        plan, policy, frame = instruments.plan, instruments.policy, instruments.frame
        leading = instruments.bench.config.outputs.leading_features
        shifts, remainder = feature_shifts(
            policy, frame, plan.rows, plan.weights, self._start, self._before, after, leading
        )
        row_shift = output_shift(frame, plan.rows, found.dots, plan.weights)
        refusal, errors = plan.refusal(after)
        names = plan.targets.names
        return StepAccount(
            step=step,
            warm_up=step <= WARM_UP_STEPS,
            learning_rate=rate,
            clip_factor=split.clip_factor,
            capture_error=split.capture_error,
            balances=balances(names, plan.targets.measure(self._before, after), targets),
            rows=row_entries(step, facts, names, targets, row_shift, own, policy, instruments.ruler),
            features=shifts,
            refit_remainder=remainder,
            refusal=refusal,
            standard_error=errors,
            health=after.health,
            seconds=time.perf_counter() - clock,
        )

    def _alerts(self) -> list[Alert]:
        assert self._start is not None
        start, _ = self.instruments.plan.refusal(self._start)
        known = {alert.subject for alert in self.alerts}
        raised = threshold_alerts(self.instruments.bench.config.alerts, start, self.accounts, known)
        for alert in raised:
            self.alerts.append(alert)
            self.sinks.alert(alert)
        return raised

    def _check_capture(self, split: StepSplit, step: int) -> None:
        if not split.capture_error <= self.capture_limit or not math.isfinite(split.clip_factor):
            found = f"rows' gradients that miss {split.capture_error:.1%} of the optimizer's at step {step}"
            remedy = "train with SFTTrainer's own loss; another callback or hook changes gradients."
            raise MeasurementError(describe("capture", found, f"at most {self.capture_limit:.1%}", remedy))

    def _keep_texts(self, captured: Iterable[CapturedRow], facts: Iterable[RowFacts]) -> None:
        if self.instruments.bench.config.outputs.row_text == "none":
            return
        new = False
        for row, fact in zip(captured, facts, strict=True):
            if fact.row_id not in self.texts:
                prompt, response = row_text(row, self.tokenizer)
                self.texts[fact.row_id] = {
                    "id": fact.row_id, "hash": fact.row_hash, "prompt": prompt, "response": response
                }
                new = True
        if new:
            self.ledger.row_texts(list(self.texts.values()))
