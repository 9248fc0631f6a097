"""From optimizer steps to accounts: keeps what steps leave, and reads those since the last snapshot on the probes.

Wiring, no arithmetic: the split is `maths.split`, its reading `step_reading`, the entries `maths.account`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor

from ..instruments.answer_tap import AnswerTap
from ..instruments.assemble import Instruments
from ..instruments.chat import generation_prompt
from ..instruments.heap import hold_heap, large_apart, release_heap
from ..instruments.optimizer_step import step_was_skipped
from ..instruments.outside import OutsideMoves
from ..instruments.own_prompts import read_own_prompts
from ..instruments.parameters import trained_parameters
from ..instruments.plan_pass import measure_plan, plan_gradients
from ..instruments.quiet import quiet
from ..instruments.row_capture import RowCapture
from ..instruments.row_identity import RowNames
from ..maths.account import (
    OwnReading,
    balances,
    by_probe,
    mean_drift,
    past_shares,
    policy_shift,
    row_entries,
)
from ..maths.by_kind import readings_by_kind
from ..maths.pathways import output_shift
from ..maths.probe_gradients import ProbeGradients
from ..maths.read_split import SplitReading
from ..maths.replay_reading import pushed_y
from ..maths.rulers import read_answers
from ..records.account import WARM_UP_STEPS, Method, RowEntry, StepAccount
from ..records.audit import AuditEntry
from ..records.snapshot import Snapshot
from .history import History
from .open_step import OpenStep, open_step
from .pace import AccountSeconds, Pace
from .self_audit import Auditor
from .step_reading import StepReading
from .watching import Watcher


class Accountant:
    """Keeps the books of one run: measures the probes of the step plan when made, at `step`, and at every account.

    `start`, the measured probes at the run's first snapshot, is set by the run before the first account. `coming` is
    the step whose gradient is whole, until it is taken; then it is one of `open_steps`, until its account.
    """

    start: Snapshot

    def __init__(
        self, instruments: Instruments, names: RowNames, args: Any, step: int, method: Method, pace: Pace
    ) -> None:
        self.instruments = instruments
        self.method: Method = method
        self.pace = pace
        self._choice = pace.probes, pace.rotation
        self._names, self._args = names, args
        self.parameters = trained_parameters(instruments.reader.model)
        self.auditor = Auditor(instruments, self.parameters, pace.clock)
        self.watcher = Watcher(instruments, self.parameters)
        self.outside = OutsideMoves(self.parameters)
        self.coming: OpenStep | None = None
        self._optimizer: Any = None
        self.open_steps: list[OpenStep] = []
        self.history = History(instruments.bench.config.account)
        clock = pace.clock()
        with large_apart():
            self.before, self._gradients = self._probe(step)
        self.kept_bytes = self._gradients.nbytes if self._gradients else 0
        self.spent = AccountSeconds(len(instruments.plan.chosen), pace.clock() - clock)
        """Where the time of the latest account went."""
        self.capture: RowCapture | None = None
        self._answers: AnswerTap | None = None
        self._heap_held = self._closes = False

    def open(self) -> None:
        """Puts the hooks on."""
        model = self.instruments.reader.model
        timed = self.pace.hooks.timed
        self.capture = RowCapture(model, self.parameters, part=1 / self.instruments.ranks.count, timed=timed)
        if self.instruments.policy.answers is not None:
            opening = generation_prompt(self.instruments.bench.tokenizer)
            self._answers = AnswerTap(model, self.instruments.reader.hook, opening=opening, timed=timed)
        self._heap_held = self.instruments.reader.feature_ids.device.type == "cpu" and hold_heap()

    def close(self) -> None:
        """Takes the hooks off."""
        self.outside.remove()
        if self._heap_held:
            release_heap()
            self._heap_held = False
        if self.capture is not None:
            self.capture.remove()
            self.capture = None
        if self._answers is not None:
            self._answers.remove()

    @property
    def due(self) -> bool:
        """Whether the open steps are as many as an account covers."""
        return len(self.open_steps) >= self.pace.every

    def before_step(self, optimizer: Any, number: int, elapsed: float, ends: bool) -> None:
        """The gradient of step `number` is whole and clipped: keep it, the rows and the optimizer's state, and replay
        what is audited. An account ends with the step where it is due, or `ends` whatever it covers. `elapsed`: the
        run's seconds so far. Raises `MeasurementError` where the rows are not all of the gradient."""
        assert self.capture is not None
        answers = read_answers(self.instruments.policy, self._answers.take()) if self._answers else None
        self._optimizer = optimizer
        self.outside.look(number - 1)
        self.outside.follow(optimizer)
        tools = self.instruments, self.parameters, self.capture, self._names
        self.coming = open_step(self.method, optimizer, *tools, answers, self._args, number)
        self._closes = ends or len(self.open_steps) + 1 >= self.pace.every
        if self.method == "split":
            first = 0.0 if self.pace.overhead is None else self.spent.probes
            draws = self.auditor.draws(number, self.before.step, self.pace.every, self._closes)
            self.auditor.before_step(optimizer, self.coming, self.pace.audit_seconds(elapsed), first, draws)

    def after_step(self) -> OpenStep | None:
        """The step is taken: it waits for its account. None where a gradient scaler skipped it: nothing has moved, and
        its rows did nothing."""
        assert self.coming is not None
        begun, self.coming = self.coming, None
        if self.outside.look(begun.number):
            self.auditor.forget()  # the probes after the step are not those of the step alone
        if step_was_skipped(self._optimizer):
            self.auditor.forget()
            return None
        if len(self.open_steps) + 1 < self.pace.every:
            begun = begun.waiting(self.pace.every, self.instruments.bench.config.memory_gib)
        self.auditor.step_taken(None if self._closes else lambda: self._probe(begun.number, False)[0])
        self.open_steps.append(begun)
        return begun

    def account(self) -> tuple[StepAccount, list[AuditEntry]]:
        """Measures the probes and closes the open steps with one account; with the audits of its steps."""
        clocks, steps = [self.pace.clock()], self.open_steps
        self.outside.look(steps[-1].number)
        plan, since, last = self.instruments.plan, self.before.step, steps[-1]
        ends = StepReading(self.instruments, self.parameters, self.history.past, steps)
        ends.first(self.before, self._gradients)
        self._gradients = None  # there is no room for those of two ends
        clocks.append(self.pace.clock())
        after, gradients = self._probe(last.number)
        clocks.append(self.pace.clock())
        own = read_own_prompts(self.instruments, self.parameters, [row for s in steps for row in s.rows])
        clocks.append(self.pace.clock())
        reading = ends.last(after, gradients, own)
        clocks.append(self.pace.clock())
        own.reading.push[:] = reading.own
        policy, frame = self.instruments.policy, self.instruments.frame
        shift = policy_shift(policy, frame, plan.rows, plan.weights, self.before, after)
        drift = mean_drift(self.start, after, plan.weights)
        self.watcher.begin(drift)
        rows, watched_by = self.watcher.split(last, *self._rows(steps, reading, own.reading, after), after)
        refusal, errors = readings_by_kind(after, plan.probes)
        replays = sum(s.replays.seconds for s in steps if s.replays)
        account = StepAccount(
            step=last.number,
            since=since,
            warm_up=since < WARM_UP_STEPS,
            learning_rate=last.learning_rate,
            clip_factor=min(s.gradient.clip_factor for s in steps),
            capture_error=max(s.gradient.capture_error for s in steps),
            balances=balances(plan.targets.names, plan.targets.measure(self.before, after), reading),
            rows=rows,
            past=past_shares(self.history.owners(steps), plan.targets.names, reading.past),
            probes=by_probe(plan.targets.measure_probes(self.before, after), reading),
            features=shift.leading(self.instruments.bench.config.outputs.leading_features),
            drift=tuple(drift.tolist()),
            refit_remainder=shift.remainder,
            refusal=refusal,
            standard_error=errors,
            health=after.health,
            seconds=self.pace.clock() - clocks[0] + replays,
            method=self.method,
            probe_ids=after.probe_ids,
            watched=shift.of(self.watcher.columns),
            watched_by=watched_by,
            outside=self.outside.moved,
            rows_kept="bfloat16" if any(step.halved for step in steps) else "float32",
        )
        # What is decided rests on it, and no rank may decide otherwise for a last bit.
        account = self.instruments.ranks.of_first(account)
        audits = self.auditor.account_made(account, after, last.replays)
        self.history.remember(steps)
        self.outside.forget()
        self.before, self._gradients = after, gradients
        took = [end - start for start, end in pairwise(clocks)]
        split = took[0] + took[3] + replays
        self.spent = AccountSeconds(len(plan.chosen), took[1], took[2], split, len(steps), replays)
        # Only now: steps of an account that could not be made stay open, and are counted when the run is abandoned.
        self.open_steps = []
        return account, audits

    def choose_probes(self, first: Snapshot) -> None:
        """Where the pace wants other probes: measures them at the parameters at which the last account ended, so that
        the next one closes on them. `first` is the run's first snapshot, of the whole set."""
        wanted = self.pace.probes, self.pace.rotation
        if wanted != self._choice:
            self._choice = wanted
            self.instruments = self.instruments.measuring(*wanted)
            self.auditor.instruments = self.watcher.instruments = self.instruments
            self.start = self.instruments.plan.part(first)
            self.before, self._gradients = self._probe(self.before.step)

    def _rows(
        self, steps: Sequence[OpenStep], reading: SplitReading, own: OwnReading, after: Snapshot
    ) -> tuple[list[RowEntry], Tensor]:
        """One entry for every row, and what each row of the last step pushed y of every probe."""
        plan, policy = self.instruments.plan, self.instruments.policy
        entries: list[RowEntry] = []
        for one in steps:
            here = slice(len(entries), len(entries) + len(one.rows))
            push = reading.push.part(here)
            delta_y = plan.targets.delta_y(push.columns, after.saturation)
            if one.replays:
                delta_y = pushed_y(one.replays.without, after)
            entries += row_entries(
                one.number,
                one.facts,
                plan.targets.names,
                reading.shares.part(here),
                push,
                output_shift(self.instruments.frame, plan.rows, delta_y, plan.weights),
                own.part(here),
                policy,
                one.answers,
            )
        return entries, delta_y

    def _probe(self, step: int, gradients: bool = True) -> tuple[Snapshot, ProbeGradients | None]:
        """The step plan's probes; with `gradients` where the optimizer's map is known."""
        with quiet(self.instruments.reader.model):
            if self.method == "replay" or not gradients:
                return measure_plan(self.instruments, step), None
            return plan_gradients(self.instruments, self.parameters, step)
