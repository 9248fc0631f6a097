"""One monitored run: from the trainer's events to snapshots, accounts, alerts and sinks. Wiring, no arithmetic."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .audit import Auditor
from .instruments.answer_tap import AnswerTap
from .instruments.assemble import Instruments
from .instruments.causal import inner_causal
from .instruments.feature_cards import feature_cards
from .instruments.own_prompts import read_own_prompts
from .instruments.parameters import trained_parameters
from .instruments.quiet import quiet
from .instruments.replay import measure_plan
from .instruments.row_capture import CapturedRow, RowCapture
from .instruments.row_identity import RowNames, new_texts
from .maths.account import RowFacts, balances, feature_shifts, mean_drift, row_entries
from .maths.alerts import threshold_alerts
from .maths.answers import read_answers
from .maths.by_kind import readings_by_kind
from .maths.pathways import output_shift
from .maths.split import split_step
from .maths.step_parts import CAPTURE_LIMIT, StepParts, check_capture, split_parts
from .maths.targets import TargetGradients
from .outputs.ledger import Ledger
from .outputs.sink import Past, SinkGroup
from .records.account import WARM_UP_STEPS, Method, StepAccount
from .records.alert import Alert
from .records.snapshot import Snapshot
from .step_begun import StepBegun, begin_step

logger = logging.getLogger("smda_monitor")


class MonitoredRun:
    """Takes the trainer's events of one run; measurements leave the model, its gradients and the random state alone.

    Made just before step `step` + 1: measures the probes of the step plan, and takes the whole first snapshot unless an
    earlier part of the run left one (`first`). `method` is how its accounts are made. `open` puts the hooks on.
    """

    def __init__(
        self,
        instruments: Instruments,
        names: RowNames,
        tokenizer: Any,
        args: Any,
        step: int,
        first: Snapshot | None,
        method: Method,
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
        self._method: Method = method
        self.auditor = Auditor(instruments, self.parameters, names, self._max_grad_norm)
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
        self.auditor.entries += past.audits
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
        assert self.capture is not None
        clock, coming = time.perf_counter(), self._before.step + 1
        self._step_begun = begun = begin_step(
            self._method, optimizer, self.instruments, self.parameters, self.capture, self._max_grad_norm, coming
        )
        if self._method == "split":
            self.auditor.before_step(optimizer, self.capture, begun.clipped, coming, self.seconds)
        self.monitor_seconds += time.perf_counter() - clock

    def after_step(self, step: int) -> list[Alert]:
        """The step is taken: measure, split, judge, write. Returns the alerts raised."""
        clock = time.perf_counter()
        assert self.capture is not None
        assert self._step_begun is not None
        begun, self._step_begun = self._step_begun, None
        if begun.was_skipped:
            self._forget()
            return []
        rows, losses, gradients = self.capture.take()
        parts, after = self._parts(step, begun, gradients)
        facts = [
            RowFacts(self._names.name(row), row.hash, row.tokens, loss, float(gradient.norm()))
            for row, loss, gradient in zip(rows, losses, gradients, strict=True)
        ]
        account = self._account(step, begun, parts, rows, facts, after, clock)
        self._before = after
        if self.instruments.bench.config.outputs.row_text != "none":
            self.ledger.row_texts(new_texts(rows, [f.row_id for f in facts], self._texts, self._tokenizer))
        self.accounts.append(account)
        if found := self.auditor.after_step(account, after, begun.replays):
            self.sinks.audits(found)
        self.sinks.account(account)
        if len(self.accounts) == 1 and all(math.isnan(row.score) for row in account.rows):
            logger.warning("No row of step %d has a prompt of its own that was read: rows get no score.", step)
        raised = self._alerts()
        self.monitor_seconds += time.perf_counter() - clock
        return raised

    def _forget(self) -> None:
        """A step that a gradient scaler skipped is no step: nothing has moved, and its rows did nothing."""
        assert self.capture is not None
        self.capture.clear()
        self.auditor.forget()
        if self._answers is not None:
            self._answers.clear()

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

    def _parts(self, step: int, begun: StepBegun, gradients: Tensor) -> tuple[StepParts, Snapshot]:
        """The parts of the step taken, and the probes after it."""
        if begun.step is None:
            with quiet(self.model):
                after = measure_plan(self.instruments, step)
            parts = begun.parts(self.instruments, self.parameters, self._before, after)
        else:
            split = split_step(gradients, begun.clipped, begun.step, self._max_grad_norm)
            after, found = self._probe(step, split.push)
            parts = split_parts(split, gradients, self._gradients, found)
            self._gradients = found.gradients
        check_capture(parts, self._capture_limit, step)
        return parts, after

    def _account(
        self,
        step: int,
        begun: StepBegun,
        parts: StepParts,
        rows: list[CapturedRow],
        facts: list[RowFacts],
        after: Snapshot,
        clock: float,
    ) -> StepAccount:
        plan, policy, frame = self.instruments.plan, self.instruments.policy, self.instruments.frame
        names, leading = plan.targets.names, self.instruments.bench.config.outputs.leading_features
        targets, replays = parts.on_targets, begun.replays
        shifts, remainder = feature_shifts(policy, frame, plan.rows, plan.weights, self._before, after, leading)
        drift = mean_drift(self._start, after, plan.weights)
        row_shift = output_shift(frame, plan.rows, parts.dots, plan.weights)
        own = read_own_prompts(self.instruments, self.parameters, rows, parts.directions)
        answers = read_answers(policy.answers, self._answers.take()) if policy.answers and self._answers else None
        refusal, errors = readings_by_kind(after, plan.probes)
        return StepAccount(
            step=step,
            warm_up=step <= WARM_UP_STEPS,
            learning_rate=begun.learning_rate,
            clip_factor=parts.clip_factor,
            capture_error=parts.capture_error,
            balances=balances(names, plan.targets.measure(self._before, after), targets),
            rows=row_entries(step, facts, names, targets, row_shift, own, policy, self.instruments.ruler, answers),
            features=shifts,
            drift=tuple(drift.tolist()),
            refit_remainder=remainder,
            refusal=refusal,
            standard_error=errors,
            health=after.health,
            seconds=time.perf_counter() - clock + (replays.seconds if replays else 0.0),
            method=parts.method,
        )

    def _alerts(self) -> list[Alert]:
        start, _ = readings_by_kind(self._start, self.instruments.bench.probes)
        known = {alert.subject for alert in self.alerts}
        raised = threshold_alerts(
            self.instruments.bench.config.alerts, start, self.accounts, known, self.auditor.entries
        )
        for alert in raised:
            self.alerts.append(alert)
            self.sinks.alert(alert)
        return raised
