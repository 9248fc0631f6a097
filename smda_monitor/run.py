"""One monitored run: from the trainer's events to snapshots, accounts, alerts and sinks. Wiring, no arithmetic."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .errors import MeasurementError, describe
from .instruments.answer_tap import AnswerTap
from .instruments.assemble import Instruments
from .instruments.causal import inner_causal
from .instruments.feature_cards import feature_cards
from .instruments.optimizer_step import bare_optimizer, read_step
from .instruments.own_prompts import read_own_prompts
from .instruments.parameters import trained_parameters
from .instruments.quiet import quiet
from .instruments.row_capture import CapturedRow, RowCapture
from .instruments.row_identity import RowNames, row_text
from .maths.account import RowFacts, balances, feature_shifts, mean_drift, row_entries
from .maths.alerts import threshold_alerts
from .maths.answers import read_answers
from .maths.by_kind import readings_by_kind
from .maths.pathways import output_shift
from .maths.split import StepSplit, on_targets, split_step
from .maths.step_map import StepMap
from .maths.targets import TargetGradients
from .outputs.ledger import Ledger
from .outputs.sink import Past, SinkGroup
from .records.account import WARM_UP_STEPS, StepAccount
from .records.alert import Alert
from .records.snapshot import Snapshot

logger = logging.getLogger("smda_monitor")
CAPTURE_LIMIT = {"float32": 1e-3, "bfloat16": 5e-2}
"""Largest ‖Σ g_i·c − gradient‖/‖gradient‖ that is a rounding error, by the type of the trainer's forward."""


@dataclass(frozen=True, slots=True)
class StepBegun:
    """What `before_step` keeps until the step is taken."""

    step: StepMap
    """The optimizer's map at its state before the step."""
    clipped: Tensor
    """(p,) the whole clipped gradient."""
    learning_rate: float
    """Of the first parameter group."""


class MonitoredRun:
    """Takes the trainer's events of one run; measurements leave the model, its gradients and the random state alone.

    Made just before step `step` + 1: measures the probes of the step plan, and takes the whole first snapshot unless an
    earlier part of the run left one (`first`). `open` puts the hooks on.
    """

    def __init__(
        self,
        instruments: Instruments,
        names: RowNames,
        tokenizer: Any,
        args: Any,
        step: int,
        first: Snapshot | None,
    ) -> None:
        self._began = time.perf_counter()
        self.model: nn.Module = instruments.reader.model
        self.instruments = instruments
        self._names = names
        self._tokenizer = tokenizer
        self._max_grad_norm = float(args.max_grad_norm or 0.0)
        self._capture_limit = CAPTURE_LIMIT["bfloat16" if args.bf16 else "float32"]
        self.parameters = trained_parameters(self.model)
        self.accounts: list[StepAccount] = []
        self.alerts: list[Alert] = []
        self._texts: set[str] = set()
        self._step_begun: StepBegun | None = None
        nothing = torch.zeros(0, self.parameters.size, device=self.parameters.weights[0].device)
        self._before, found = self._probe(step, nothing)
        self._gradients = found.gradients
        self._resumed = first is not None
        self.first = self.last = first or self._whole(step)
        self._start = instruments.plan.part(self.first)
        self.monitor_seconds = self.seconds
        self.capture: RowCapture | None = None
        self._answers: AnswerTap | None = None

    def open(self, sinks: SinkGroup, ledger: Ledger, past: Past) -> None:
        """The folder is ready: the first snapshot goes there, what a resumed run did is taken up, hooks go on."""
        self.sinks, self.ledger = sinks, ledger
        self.accounts += past.accounts
        self.alerts += past.alerts
        self._texts |= past.named
        if not self._resumed:
            sinks.snapshot(self.first)
        self.capture = RowCapture(inner_causal(self.model), self.parameters)
        if self.instruments.policy.answers is not None:
            self._answers = AnswerTap(self.model, self.instruments.reader.hook)

    @property
    def seconds(self) -> float:
        """Wall time since the run was set up."""
        return time.perf_counter() - self._began

    def refusal(self) -> tuple[dict[str, float], dict[str, float]]:
        """Refusal by reading and kind on the whole set, at the first and at the latest snapshot of it."""
        probes = self.instruments.bench.probes
        return readings_by_kind(self.first, probes)[0], readings_by_kind(self.last, probes)[0]

    def before_step(self, optimizer: Any) -> None:
        """The gradient is whole and clipped: keep it, and the optimizer's state."""
        clock = time.perf_counter()
        gradients = [w.grad if w.grad is not None else torch.zeros_like(w) for w in self.parameters.weights]
        rate = float(bare_optimizer(optimizer).param_groups[0]["lr"])
        coming = read_step(optimizer, self.parameters)
        self._step_begun = StepBegun(coming, self.parameters.flatten(gradients), rate)
        self.monitor_seconds += time.perf_counter() - clock

    def after_step(self, step: int) -> list[Alert]:
        """The step is taken: measure, split, judge, write. Returns the alerts raised."""
        clock = time.perf_counter()
        assert self.capture is not None
        assert self._step_begun is not None
        begun, self._step_begun = self._step_begun, None
        rows, losses, captured = self.capture.take()
        gradients = captured.dense(0, captured.size)
        split = split_step(gradients, begun.clipped, begun.step, self._max_grad_norm)
        self._check_capture(split, step)
        after, found = self._probe(step, split.push)
        facts = [
            RowFacts(self._names.name(row), row.hash, row.tokens, loss, float(gradient.norm()))
            for row, loss, gradient in zip(rows, losses, gradients, strict=True)
        ]
        account = self._account(step, begun, split, (rows, gradients, facts), (after, found), clock)
        self._before, self._gradients = after, found.gradients
        self._keep_texts(rows, facts)
        self.accounts.append(account)
        self.sinks.account(account)
        if len(self.accounts) == 1 and all(math.isnan(row.score) for row in account.rows):
            logger.warning("No row of step %d has a prompt of its own that was read: rows get no score.", step)
        raised = self._alerts()
        self.monitor_seconds += time.perf_counter() - clock
        return raised

    def finish(self, step: int, summary: Callable[[], dict[str, Any]]) -> None:
        """The last snapshot of the whole set, the feature cards, and the sinks' end; hooks go, also after an error."""
        clock = time.perf_counter()
        try:
            self.last = self._whole(step)
            self.sinks.snapshot(self.last)
            drift = self.last.X.double() - self.first.X.double()
            self.ledger.feature_cards(feature_cards(self.instruments, self.last, drift, self._tokenizer))
        finally:
            self.close()
        self.monitor_seconds += time.perf_counter() - clock
        self.sinks.finish({**summary(), "monitor_seconds": self.monitor_seconds})

    def close(self) -> None:
        """Takes the hooks off."""
        if self.capture is not None:
            self.capture.remove()
            self.capture = None
        if self._answers is not None:
            self._answers.remove()

    def _whole(self, step: int) -> Snapshot:
        probes, reader = self.instruments.bench.probes, self.instruments.reader
        with quiet(self.model):
            measured = reader.measure(self.instruments.tokens(list(range(len(probes)))))
        return reader.snapshot(step, probes.ids, measured)

    def _probe(self, step: int, directions: Tensor) -> tuple[Snapshot, TargetGradients]:
        plan, reader = self.instruments.plan, self.instruments.reader
        with quiet(self.model):
            prompts = self.instruments.tokens(plan.chosen)
            measured, found = reader.targets(prompts, plan.targets, self.parameters, directions)
        return reader.snapshot(step, [plan.probes.ids[i] for i in plan.chosen], measured), found

    def _account(
        self,
        step: int,
        begun: StepBegun,
        split: StepSplit,
        of_rows: tuple[list[CapturedRow], Tensor, list[RowFacts]],
        of_probes: tuple[Snapshot, TargetGradients],
        clock: float,
    ) -> StepAccount:
        (rows, gradients, facts), (after, found) = of_rows, of_probes
        plan, policy, frame = self.instruments.plan, self.instruments.policy, self.instruments.frame
        names, leading = plan.targets.names, self.instruments.bench.config.outputs.leading_features
        targets = on_targets(split, gradients, self._gradients, found.gradients)
        shifts, remainder = feature_shifts(policy, frame, plan.rows, plan.weights, self._before, after, leading)
        drift = mean_drift(self._start, after, plan.weights)
        row_shift = output_shift(frame, plan.rows, found.dots, plan.weights)
        own = read_own_prompts(self.instruments, self.parameters, rows, split.push)
        answers = read_answers(policy.answers, self._answers.take()) if policy.answers and self._answers else None
        refusal, errors = readings_by_kind(after, plan.probes)
        return StepAccount(
            step=step,
            warm_up=step <= WARM_UP_STEPS,
            learning_rate=begun.learning_rate,
            clip_factor=split.clip_factor,
            capture_error=split.capture_error,
            balances=balances(names, plan.targets.measure(self._before, after), targets),
            rows=row_entries(step, facts, names, targets, row_shift, own, policy, self.instruments.ruler, answers),
            features=shifts,
            drift=tuple(drift.tolist()),
            refit_remainder=remainder,
            refusal=refusal,
            standard_error=errors,
            health=after.health,
            seconds=time.perf_counter() - clock,
        )

    def _alerts(self) -> list[Alert]:
        start, _ = readings_by_kind(self._start, self.instruments.bench.probes)
        known = {alert.subject for alert in self.alerts}
        raised = threshold_alerts(self.instruments.bench.config.alerts, start, self.accounts, known)
        for alert in raised:
            self.alerts.append(alert)
            self.sinks.alert(alert)
        return raised

    def _check_capture(self, split: StepSplit, step: int) -> None:
        if not split.capture_error <= self._capture_limit or not math.isfinite(split.clip_factor):
            found = f"rows' gradients that miss {split.capture_error:.1%} of the optimizer's at step {step}"
            remedy = "train with SFTTrainer's own loss; another callback or hook changes gradients."
            raise MeasurementError(describe("capture", found, f"at most {self._capture_limit:.1%}", remedy))

    def _keep_texts(self, rows: Iterable[CapturedRow], facts: Iterable[RowFacts]) -> None:
        if self.instruments.bench.config.outputs.row_text == "none":
            return
        new = []
        for row, fact in zip(rows, facts, strict=True):
            if fact.row_id not in self._texts:
                self._texts.add(fact.row_id)
                prompt, response = row_text(row, self._tokenizer)
                new.append({"id": fact.row_id, "hash": fact.row_hash, "prompt": prompt, "response": response})
        self.ledger.row_texts(new)
