"""From optimizer steps to accounts: keeps what steps leave, and reads those since the last snapshot on the probes.

Wiring, no arithmetic: the split is `maths.split`, its reading `maths.read_split`, the entries `maths.account`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from .errors import MeasurementError, describe
from .instruments.answer_tap import AnswerTap
from .instruments.assemble import Instruments
from .instruments.causal import inner_causal
from .instruments.optimizer_step import bare_optimizer, read_step
from .instruments.own_prompts import read_own_prompts
from .instruments.parameters import trained_parameters
from .instruments.quiet import quiet
from .instruments.row_capture import CapturedRow, RowCapture
from .instruments.row_identity import RowNames
from .maths.account import (
    OwnReading,
    RowFacts,
    balances,
    by_probe,
    feature_shifts,
    mean_drift,
    past_shares,
    row_entries,
)
from .maths.answers import read_answers
from .maths.by_kind import readings_by_kind
from .maths.past import PastStep, remember
from .maths.pathways import output_shift
from .maths.probe_gradients import ProbeGradients
from .maths.read_split import End, SplitReading, read_split
from .maths.split import TakenStep, take_step
from .maths.step_map import WholeStep
from .records.account import WARM_UP_STEPS, RowEntry, StepAccount
from .records.snapshot import Snapshot

CAPTURE_LIMIT = {"float32": 1e-3, "bfloat16": 5e-2}
"""Largest ‖Σ g_i·c − gradient‖/‖gradient‖ that is a rounding error, by the type of the trainer's forward."""


@dataclass(frozen=True, slots=True)
class StepBegun:
    """What `before_step` keeps until the step is taken."""

    step: WholeStep
    """The optimizer's map at its state before the step."""
    clipped: Tensor
    """(p,) the whole clipped gradient."""
    learning_rate: float
    """Of the first parameter group."""


@dataclass(frozen=True, slots=True)
class OpenStep:
    """A step that waits for its account."""

    taken: TakenStep
    """The step."""
    rows: list[CapturedRow]
    """Its rows."""
    facts: list[RowFacts]
    """What is known of them."""
    answers: Tensor | None
    """(n,) what they answer; None without reference answers."""
    learning_rate: float
    """Of the first parameter group."""


class Accountant:
    """Keeps the books of one run: measures the probes of the step plan when made, at `step`, and at every account.

    `start`, the measured probes at the run's first snapshot, is set by the run before the first account.
    """

    start: Snapshot

    def __init__(self, instruments: Instruments, names: RowNames, args: Any, step: int) -> None:
        self.instruments = instruments
        self._config = instruments.bench.config.account
        self._names = names
        self._max_grad_norm = float(args.max_grad_norm or 0.0)
        self._capture_limit = CAPTURE_LIMIT["bfloat16" if args.bf16 else "float32"]
        self.parameters = trained_parameters(instruments.reader.model)
        self._begun: StepBegun | None = None
        self.open_steps: list[OpenStep] = []
        self._past: list[PastStep] = []
        self._owners: dict[int, list[RowFacts]] = {}
        self._since = step
        self.before, self._gradients = self._probe(step)
        self.capture: RowCapture | None = None
        self._answers: AnswerTap | None = None

    def open(self) -> None:
        """Puts the hooks on."""
        model = self.instruments.reader.model
        self.capture = RowCapture(inner_causal(model), self.parameters)
        if self.instruments.policy.answers is not None:
            self._answers = AnswerTap(model, self.instruments.reader.hook)

    def close(self) -> None:
        """Takes the hooks off."""
        if self.capture is not None:
            self.capture.remove()
            self.capture = None
        if self._answers is not None:
            self._answers.remove()

    def before_step(self, optimizer: Any) -> None:
        """The gradient is whole and clipped: keep it, and the optimizer's state."""
        gradients = [w.grad if w.grad is not None else torch.zeros_like(w) for w in self.parameters.weights]
        rate = float(bare_optimizer(optimizer).param_groups[0]["lr"])
        coming = read_step(optimizer, self.parameters)
        self._begun = StepBegun(coming, self.parameters.flatten(gradients), rate)

    def after_step(self, step: int) -> None:
        """The step is taken: keep its rows until the account. Raises `MeasurementError` where they are not all of the
        optimizer's gradient."""
        assert self.capture is not None
        assert self._begun is not None
        begun, self._begun = self._begun, None
        rows, losses, gradients = self.capture.take()
        taken = take_step(step, begun.step, gradients, begun.clipped, self._max_grad_norm)
        self._check_capture(taken)
        facts = [
            RowFacts(self._names.name(row), row.hash, row.tokens, loss, norm)
            for row, loss, norm in zip(rows, losses, taken.norms.tolist(), strict=True)
        ]
        ruler = self.instruments.policy.answers
        answers = read_answers(ruler, self._answers.take()) if ruler and self._answers else None
        self.open_steps.append(OpenStep(taken, rows, facts, answers, begun.learning_rate))

    def account(self) -> StepAccount:
        """Measures the probes and closes the open steps with one account."""
        clock = time.perf_counter()
        steps, self.open_steps = self.open_steps, []
        taken, last = [s.taken for s in steps], steps[-1].taken.number
        plan, since = self.instruments.plan, self._since
        after, gradients = self._probe(last)
        own = read_own_prompts(self.instruments, self.parameters, [row for s in steps for row in s.rows])
        ends = (
            End(self._gradients, plan.targets.weights(self.before.saturation)),
            End(gradients, plan.targets.weights(after.saturation)),
        )
        reading = read_split(taken, self._past, ends, own.gradients, own.read)
        own.reading.push[:] = reading.own
        shifts, remainder = feature_shifts(
            self.instruments.policy,
            self.instruments.frame,
            plan.rows,
            plan.weights,
            self.before,
            after,
            self.instruments.bench.config.outputs.leading_features,
        )
        refusal, errors = readings_by_kind(after, plan.probes)
        account = StepAccount(
            step=last,
            since=since,
            warm_up=since < WARM_UP_STEPS,
            learning_rate=steps[-1].learning_rate,
            clip_factor=min(t.clip_factor for t in taken),
            capture_error=max(t.capture_error for t in taken),
            balances=balances(plan.targets.names, plan.targets.measure(self.before, after), reading),
            rows=tuple(self._rows(steps, reading, own.reading, after)),
            past=past_shares(self._owned(steps), plan.targets.names, reading.past),
            probes=by_probe(plan.targets.measure_probes(self.before, after), reading),
            features=shifts,
            drift=tuple(mean_drift(self.start, after, plan.weights).tolist()),
            refit_remainder=remainder,
            refusal=refusal,
            standard_error=errors,
            health=after.health,
            seconds=time.perf_counter() - clock,
        )
        self._remember(steps)
        self.before, self._gradients, self._since = after, gradients, last
        return account

    def _rows(
        self, steps: Sequence[OpenStep], reading: SplitReading, own: OwnReading, after: Snapshot
    ) -> list[RowEntry]:
        plan, policy = self.instruments.plan, self.instruments.policy
        entries: list[RowEntry] = []
        for one in steps:
            here = slice(len(entries), len(entries) + len(one.rows))
            push = reading.push.part(here)
            delta_y = plan.targets.delta_y(push.columns, after.saturation)
            entries += row_entries(
                one.taken.number,
                one.facts,
                plan.targets.names,
                reading.shares.part(here),
                push,
                output_shift(self.instruments.frame, plan.rows, delta_y, plan.weights),
                own.part(here),
                policy,
                self.instruments.ruler,
                one.answers,
            )
        return entries

    def _owned(self, steps: Sequence[OpenStep]) -> list[tuple[int, RowFacts]]:
        """Step and facts of the rows to whom history is handed on, in the order of the reading."""
        earlier = [(past.number, self._owners[past.number]) for past in self._past]
        within = [(one.taken.number, one.facts) for one in steps[:-1]]
        return [(step, fact) for step, facts in chain(earlier, within) for fact in facts]

    def _remember(self, steps: Sequence[OpenStep]) -> None:
        limit = int(self._config.history_gib * 2**30)
        self._past = remember(self._past, [s.taken for s in steps], self._config.history_steps, limit)
        self._owners |= {one.taken.number: one.facts for one in steps}
        kept = {past.number for past in self._past}
        self._owners = {step: facts for step, facts in self._owners.items() if step in kept}

    def _probe(self, step: int) -> tuple[Snapshot, ProbeGradients]:
        plan, reader = self.instruments.plan, self.instruments.reader
        with quiet(reader.model):
            prompts = self.instruments.tokens(plan.chosen)
            targets = plan.targets
            measured, found = reader.gradients(prompts, targets.cotangent_X, targets.coef, self.parameters)
        return reader.snapshot(step, [plan.probes.ids[i] for i in plan.chosen], measured), found

    def _check_capture(self, taken: TakenStep) -> None:
        if not taken.capture_error <= self._capture_limit or not math.isfinite(taken.clip_factor):
            missed = f"{taken.capture_error:.1%} of the optimizer's at step {taken.number}"
            found = f"rows' gradients that miss {missed}"
            remedy = "train with SFTTrainer's own loss; another callback or hook changes gradients."
            raise MeasurementError(describe("capture", found, f"at most {self._capture_limit:.1%}", remedy))
