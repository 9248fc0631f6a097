"""Judges training rows one by one before training: what a step on each alone does to the probes. Wiring, no arithmetic.

Every row starts from the same state: the model and the optimizer as `Training` left them. `without` is where a step on
no gradient ends, by momentum and weight decay alone; a row's figures are the difference from there.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..errors import ConfigError, describe
from ..instruments.answer_tap import AnswerTap
from ..instruments.assemble import Instruments
from ..instruments.captured_rows import CapturedRow
from ..instruments.chat import generation_prompt
from ..instruments.optimizer_step import read_step, unknown_step
from ..instruments.own_prompts import prompts_of, read_own_prompts
from ..instruments.parameters import trained_parameters
from ..instruments.plan_pass import measure_plan, plan_gradients
from ..instruments.products import fast_products
from ..instruments.rehearsal import rehearsal
from ..instruments.replay import replay
from ..instruments.row_capture import RowCapture
from ..instruments.watched_gradients import kept_gradients, watched_gradients
from ..maths.account import OwnReading, PolicyShift, RowFacts, policy_shift, row_entries, unread
from ..maths.lone_row import read_alone, read_parts_alone, row_norms
from ..maths.pathways import output_shift
from ..maths.probe_gradients import FlatGradients, FurtherColumns, ProbeGradients
from ..maths.read_split import Read
from ..maths.replay_reading import pushed_y, read_measured
from ..maths.row_gradients import RowGradients
from ..maths.row_watched import watched_effects
from ..maths.rulers import read_answers
from ..maths.step_map import WholeStep, clip_factor
from ..maths.watched import WatchedShifts, leading_features
from ..records.row_audit import AuditMethod, RowAudit
from ..records.snapshot import Snapshot
from .training import Training


class DataAudit:
    """Judges the rows of `training` by `method` on the step plan of `instruments`; `row_ids` and `lines` name them.

    Weights, optimizer and random state are as before after every row. Raises `ConfigError` for ``gradient`` with an
    optimizer whose step is not known exactly.
    """

    def __init__(
        self,
        training: Training,
        instruments: Instruments,
        method: AuditMethod,
        row_ids: Sequence[str],
        lines: Sequence[int],
    ) -> None:
        unknown = unknown_step(training.optimizer)
        if method == "gradient" and unknown is not None:
            found = f"gradient, but {unknown}"
            raise ConfigError(describe("data_audit.method", found, "replay", "set data_audit.method: replay."))
        self._training, self.instruments, self.method = training, instruments, method
        self._ids, self._lines = row_ids, lines
        self.parameters = trained_parameters(training.model)
        self._opening = generation_prompt(instruments.bench.tokenizer)
        self._columns = leading_features(instruments.policy, instruments.bench.config.account.watched_features)
        plan = instruments.plan
        self._watched = WatchedShifts.of(instruments.frame, plan.rows, plan.weights, self._columns)
        self._without: Snapshot | None = None
        self._gradients: ProbeGradients | None = None
        self._watched_gradients: FlatGradients | None = None

    def judge(self, chosen: Sequence[int]) -> list[RowAudit]:
        """The rows numbered `chosen`."""
        if self.method == "replay":
            return [self._replayed(i) for i in chosen]
        began = time.perf_counter()
        found = self._read(chosen)
        seconds = (time.perf_counter() - began) / len(chosen)
        return [replace(one, seconds=seconds) for one in found]

    def _read(self, chosen: Sequence[int]) -> list[RowAudit]:
        """By gradient."""
        rows, facts, answers, gradients = self._captured(chosen)
        step = read_step(self._training.optimizer, self.parameters)
        self._measure_without(with_gradients=True)
        assert self._gradients is not None
        assert self._without is not None
        with rehearsal(self._training.optimizer, self._training.model, self.parameters) as take:
            take(torch.zeros(self.parameters.size))
            own = read_own_prompts(self.instruments, self.parameters, rows)
        plan = self.instruments.plan
        weights = plan.targets.weights(self._without.saturation)
        factors = [clip_factor(fact.gradient_norm, self._training.max_norm) for fact in facts]
        count, kept = weights.shape[1], self._watched_gradients
        towards = self._gradients if kept is None else FurtherColumns(self._gradients, count, kept)
        known = kept.count if kept else 0
        with fast_products():
            found, pushes = read_alone(gradients, factors, step, towards, count + known, own.gradients, own.read)
            further = self._read_watched(gradients, factors, step, known)
        through_features = torch.cat([found[:, count:], further], dim=1)
        own.reading.push[:] = pushes
        push = Read.of(found[:, :count], weights)
        delta_y = plan.targets.delta_y(push.columns, self._without.saturation)
        return self._judged(chosen, facts, push, delta_y, through_features, own.reading, answers)

    def _read_watched(self, rows: RowGradients, factors: Sequence[float], step: WholeStep, known: int) -> Tensor:
        """(n, K − known) ΔW_X of the watched features behind the first `known`, on gradients that are taken for these
        rows alone."""
        left = slice(known, self._watched.count)
        if known == self._watched.count:
            return torch.zeros(rows.rows, 0, dtype=torch.float64)
        with rehearsal(self._training.optimizer, self._training.model, self.parameters) as take:
            take(torch.zeros(self.parameters.size))
            return read_parts_alone(rows, factors, step, self._watched_parts(left))

    def _watched_parts(self, features: slice) -> Iterator[FlatGradients]:
        instruments = self.instruments
        prompts = instruments.tokens(instruments.plan.chosen)
        return watched_gradients(instruments.reader, prompts, self._watched.part(features), self.parameters)

    def _replayed(self, number: int) -> RowAudit:
        began = time.perf_counter()
        (row,), facts, answers, _ = self._captured([number])
        self._measure_without(with_gradients=False)
        assert self._without is not None
        gradient = self.parameters.gradient()
        clipped = clip_factor(facts[0].gradient_norm, self._training.max_norm) * gradient
        optimizer, instruments = self._training.optimizer, self.instruments
        own, prompt = unread(1, len(instruments.policy.feature_ids)), list(prompts_of(instruments, [row]).values())
        with rehearsal(optimizer, self._training.model, self.parameters) as take:
            take(clipped)
            after = measure_plan(instruments, 0)
            with_row = instruments.reader.measure(prompt) if prompt else None
        if with_row is not None:
            with rehearsal(optimizer, self._training.model, self.parameters) as take:
                take(torch.zeros_like(gradient))
                alone = instruments.reader.measure(prompt)
            own = OwnReading.of(alone.readings, with_row.readings, alone.X, instruments.expected(alone))
        plan = instruments.plan
        push, delta_y = read_measured(plan.targets, [(self._without, after)]), pushed_y([self._without], after)
        shift = policy_shift(instruments.policy, instruments.frame, plan.rows, plan.weights, self._without, after)
        through_features = shift.figures[1:2, self._columns]
        (found,) = self._judged([number], facts, push, delta_y, through_features, own, answers, shift)
        return replace(found, seconds=time.perf_counter() - began)

    def _judged(
        self,
        chosen: Sequence[int],
        facts: Sequence[RowFacts],
        push: Read,
        delta_y: Tensor,
        through_features: Tensor,
        own: OwnReading,
        answers: Tensor | None,
        shift: PolicyShift | None = None,
    ) -> list[RowAudit]:
        policy, plan, frame = self.instruments.policy, self.instruments.plan, self.instruments.frame
        row_shift = output_shift(frame, plan.rows, delta_y, plan.weights)
        entries = row_entries(0, facts, plan.targets.names, push, push, row_shift, own, policy, answers)
        remainder, refit = math.nan, torch.full_like(through_features, math.nan)
        if shift is not None:
            remainder, refit = shift.remainder, shift.figures[3:, self._columns]
        through_output, leading = row_shift[:, self._columns], self.instruments.bench.config.outputs.leading_features
        effects = watched_effects(policy, self._columns, through_features, through_output, refit, own)
        return [
            RowAudit(
                line=self._lines[i],
                entry=replace(entry, share={}, probe_share={}, score=math.nan),
                features=effect.leading(leading) if shift is None else shift.leading(leading),
                refit_remainder=remainder,
                seconds=0.0,
                watched=effect.shifts,
                intended=effect.intended,
                watched_interference=effect.interference,
                watched_dominant=effect.dominant,
            )
            for i, entry, effect in zip(chosen, entries, effects, strict=True)
        ]

    def _captured(self, chosen: Sequence[int]) -> tuple[list[CapturedRow], list[RowFacts], Tensor | None, RowGradients]:
        """The rows, what is known of them, what they answer, and their unclipped gradients; ``.grad`` is that of the
        last forward's rows."""
        training, policy, reader = self._training, self.instruments.policy, self.instruments.reader
        # Hooks are on for these passes alone: in eval mode nothing else tells them from a probe pass.
        capture = RowCapture(training.model, self.parameters, training.in_training)
        tap = None
        if policy.answers is not None:
            tap = AnswerTap(training.model, reader.hook, training.in_training, self._opening)
        try:
            with fast_products():
                for start in range(0, len(chosen), training.together):
                    training.backward(chosen[start : start + training.together])
            rows, losses, gradients = capture.take()
            answers = read_answers(policy, tap.take()) if tap is not None else None
        finally:
            capture.remove()
            if tap is not None:
                tap.remove()
        facts = [
            RowFacts(self._ids[i], row.hash, row.tokens, loss, norm)
            for i, row, loss, norm in zip(chosen, rows, losses, row_norms(gradients), strict=True)
        ]
        return rows, facts, answers, gradients

    def _measure_without(self, with_gradients: bool) -> None:
        """The probes where a step on no gradient ends; once. ``.grad`` must be that of a row."""
        if self._without is not None:
            return
        nothing = torch.zeros(self.parameters.size)
        if not with_gradients:
            self._without, _ = replay(self._training.optimizer, self.instruments, self.parameters, nothing, 0)
            return
        with rehearsal(self._training.optimizer, self._training.model, self.parameters) as take:
            take(nothing)
            self._without, self._gradients = plan_gradients(self.instruments, self.parameters, 0)
            count, kind = kept_gradients(self.instruments.reader, self._watched, self.parameters)
            if count:
                parts = self._watched_parts(slice(count))
                self._watched_gradients = FlatGradients.joined(parts, count, kind)
