"""The self-audit: from time to time a step is replayed without one row, and the account's push is held against it."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..instruments.assemble import Instruments
from ..instruments.parameters import TrainedParameters
from ..instruments.replay import RowReplays, replay_without
from ..maths.account import policy_shift
from ..maths.fidelity import noise_floor
from ..records.account import FeatureShift, RowEntry, StepAccount
from ..records.audit import AuditEntry, Reason
from ..records.snapshot import Snapshot
from .open_step import OpenStep


@dataclass(frozen=True, slots=True)
class _Replayed:
    """A row that was left out of its step."""

    step: int
    """The step."""
    place: int
    """Its place among the step's rows."""
    reason: Reason
    """Why it was chosen."""
    without: Snapshot
    """The probes after the step without it."""
    seconds: float
    """Wall time of the replay."""
    whole: Snapshot | None = None
    """The probes after the step with it; None where the account measures them."""


class Auditor:
    """Audits one run. `before_step` replays while the step is still to come, `step_taken` measures the probes after it
    where no account does, and `account_made` compares.

    Randomly drawn rows (``audit.share``) are drawn by a generator of the auditor's own from the run's seed: a step of
    the account, and a row of that step. One is replayed whenever the replays so far and another as dear as the last
    stay within what the run allows: the share, and under a budget of time (``overhead``) its part for audits. Before
    the first the caller says how dear it may be: 0 replays one in the first account. Rows asked for by id
    (``audit.rows``) are replayed whenever they come, outside that budget.
    """

    def __init__(self, instruments: Instruments, parameters: TrainedParameters, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._config = instruments.bench.config.audit
        self._seed = instruments.bench.config.seed
        self.instruments, self._parameters = instruments, parameters
        model = instruments.reader.model
        self._epsilon = max(torch.finfo(p.dtype).eps for p in model.parameters() if p.is_floating_point())
        self.spent = 0.0
        """Seconds of all replays of drawn rows."""
        self._last_cost: float | None = None
        self._coming: list[_Replayed] = []
        self._replayed: list[_Replayed] = []
        self.entries: list[AuditEntry] = []
        """All of the run so far, those before a resume included."""

    def draws(self, number: int, since: int, every: int, last: bool) -> bool:
        """Whether a row of step `number` may be drawn, of an account since step `since` that covers `every` steps: at
        one of them, any as likely as another, or at the `last` one where there was none."""
        drawn = random.Random(f"{self._seed}/since {since}").randrange(every)
        return number - since - 1 == drawn or (last and all(found.reason != "sample" for found in self._replayed))

    def before_step(self, optimizer: Any, coming: OpenStep, allowed: float, first: float, draws: bool) -> None:
        """Replays the `coming` step without the rows chosen, a drawn one among them where it `draws`. `allowed`: the
        seconds that all replays of drawn rows together may take so far; `first`: what one takes, as long as none was
        made."""
        self.forget()
        affordable = self.spent + (first if self._last_cost is None else self._last_cost) <= allowed
        row_ids = [fact.row_id for fact in coming.facts]
        for place, reason in self._chosen(row_ids, coming.number, draws and affordable).items():
            clock = self._clock()
            snapshot = replay_without(
                optimizer, self.instruments, self._parameters, coming.gradient, place, coming.number
            )
            replayed = _Replayed(coming.number, place, reason, snapshot, self._clock() - clock)
            self._coming.append(replayed)
            self._spend(replayed, replayed.seconds)

    def step_taken(self, measured: Callable[[], Snapshot] | None) -> None:
        """The step is taken. `measured` gives the probes after it; None where the account is made now and has them."""
        coming, self._coming = self._coming, []
        if coming and measured is not None:
            clock = self._clock()
            whole = measured()
            cost = (self._clock() - clock) / len(coming)
            coming = [replace(one, whole=whole, seconds=one.seconds + cost) for one in coming]
            for one in coming:
                self._spend(one, cost)
        self._replayed += coming

    def account_made(
        self, account: StepAccount, after: Snapshot, replays: RowReplays | None = None
    ) -> list[AuditEntry]:
        """One entry for every row replayed in the steps of `account`, whose probes are now `after`.

        An account that is made of `replays` has nothing to be audited: only rows asked for have an entry."""
        if replays is not None:
            cost = replays.seconds / (len(account.rows) + 1)
            asked = [i for i, row in enumerate(account.rows) if row.row_id in self._config.rows]
            self._replayed = [_Replayed(account.step, i, "asked", replays.without[i], cost) for i in asked]
        replayed, self._replayed = self._replayed, []
        found = []
        for one in replayed:
            if one.whole is None and one.step != account.step:
                continue  # an account that was to end there did not, and what came after is in its probes
            rows = [row for row in account.rows if row.step == one.step]
            found.append(self._entry(account, rows[one.place], after if one.whole is None else one.whole, one))
        self.entries += found
        return found

    def forget(self) -> None:
        """The step that was replayed was never taken, or not it alone moved the weights."""
        self._coming = []

    def _spend(self, replayed: _Replayed, seconds: float) -> None:
        if replayed.reason == "sample":
            self.spent, self._last_cost = self.spent + seconds, replayed.seconds

    def _chosen(self, row_ids: Sequence[str], step: int, draws: bool) -> dict[int, Reason]:
        """Places of the rows to leave out."""
        chosen: dict[int, Reason] = {i: "asked" for i, row_id in enumerate(row_ids) if row_id in self._config.rows}
        others = [i for i in range(len(row_ids)) if i not in chosen]
        if others and draws and self._config.share > 0:
            chosen[random.Random(f"{self._seed}/{step}").choice(others)] = "sample"
        # Seconds are each rank's own: the first decides.
        return self.instruments.ranks.of_first(chosen)

    def _entry(self, account: StepAccount, row: RowEntry, after: Snapshot, replayed: _Replayed) -> AuditEntry:
        plan = self.instruments.plan
        figures = plan.targets.measure(replayed.without, after)
        noise = noise_floor(plan.targets, after, self._epsilon)
        features: tuple[FeatureShift, ...] = ()
        remainder = float("nan")
        if replayed.reason == "asked":
            policy, frame = self.instruments.policy, self.instruments.frame
            leading = self.instruments.bench.config.outputs.leading_features
            shift = policy_shift(policy, frame, plan.rows, plan.weights, replayed.without, after)
            features, remainder = shift.leading(leading), shift.remainder
        return AuditEntry(
            step=row.step,
            row_id=row.row_id,
            row_hash=row.row_hash,
            warm_up=account.warm_up,
            reason=replayed.reason,
            push={name: row.push[name] for name in plan.targets.names},
            replayed=dict(zip(plan.targets.names, figures.tolist(), strict=True)),
            noise=dict(zip(plan.targets.names, noise.tolist(), strict=True)),
            features=features,
            refit_remainder=remainder,
            seconds=replayed.seconds,
        )
