"""One monitored run: from the trainer's events to snapshots, accounts, alerts and sinks. Wiring, no arithmetic."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

from torch import nn

from ..instruments.assemble import Instruments
from ..instruments.feature_cards import feature_cards
from ..instruments.heap import HeapGrowth, trimmed
from ..instruments.plan_pass import measure_set
from ..instruments.row_identity import RowNames, new_texts
from ..maths.alerts import by_outstanding, drift_alert, limit_alerts, moved_outside
from ..maths.by_kind import readings_by_kind
from ..maths.fidelity import short_steps
from ..maths.intent import intent_in_words
from ..maths.row_alerts import row_alert
from ..outputs.ledger import Ledger
from ..outputs.sink import NoLedger, Past, SinkGroup
from ..records.account import Method, StepAccount
from ..records.alert import Alert
from ..records.snapshot import Snapshot
from .accounting import Accountant
from .drift_watch import DriftWatch
from .pace import Pace
from .self_audit import Auditor
from .together import leave

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
        clock: Callable[[], float],
    ) -> None:
        self._clock, self._began = clock, clock()
        self.model: nn.Module = instruments.reader.model
        self.instruments = instruments
        self._tokenizer = tokenizer
        bench = instruments.bench
        measured = len(instruments.plan.chosen)
        self.pace = Pace(bench.config, method, len(bench.probes), measured, clock, instruments.ranks.of_first)
        self.accountant = Accountant(instruments, names, args, step, method, self.pace)
        self.pace.first_pass(self.accountant.spent, self.accountant.kept_bytes)
        self.accounts: list[StepAccount] = []
        self.alerts: list[Alert] = []
        self._texts: set[str] = set()
        self._heap = HeapGrowth()
        self._resumed = first is not None
        self.first = self.last = first or measure_set(instruments, bench.probes, step)
        self.accountant.start = instruments.plan.part(self.first)
        self._drift = DriftWatch(instruments, self.first, changes=bench.config.overhead is not None)

    def open(self, sinks: SinkGroup, ledger: Ledger | NoLedger, past: Past) -> None:
        """The folder is ready: the first snapshot goes there, what a resumed run did is taken up, hooks go on."""
        self.sinks, self.ledger = sinks, ledger
        self.accounts += past.accounts
        self.alerts += past.alerts
        self.auditor.entries += past.audits
        self.accountant.watcher.resume(past.accounts)
        self._drift.resume(past.accounts, self._start, past.looks)
        self._texts |= past.named
        if not self._resumed:
            self._drift.warn()
            sinks.snapshot(self.first)
        self.pace.resume(past.accounts)
        self._choose_probes()
        self.accountant.open()
        self._setup_seconds = self.seconds
        self.pace.begin()

    @property
    def meant(self) -> str:
        """What the run is meant to do, and what is alerted otherwise, in a line."""
        return intent_in_words(self._behaviour, self._drift.intent, self.instruments.bench.config.alerts)

    @property
    def auditor(self) -> Auditor:
        """Of its accounts."""
        return self.accountant.auditor

    @property
    def seconds(self) -> float:
        """Wall time since the run was set up."""
        return self._clock() - self._began

    @property
    def monitor_seconds(self) -> float:
        """What of it the monitor took, with its setting up."""
        return self._setup_seconds + self.pace.worked

    def refusal(self) -> tuple[dict[str, float], dict[str, float]]:
        """Refusal by reading and kind on the whole set, at the first and at the latest snapshot of it."""
        probes = self.instruments.bench.probes
        return readings_by_kind(self.first, probes)[0], readings_by_kind(self.last, probes)[0]

    def before_step(self, optimizer: Any, number: int, ends: bool) -> None:
        """The gradient of the coming step is whole and clipped: keep it, and the optimizer's state. `ends`: whether an
        account ends with it however few steps it covers."""
        with self.pace.working():
            self.accountant.before_step(optimizer, number, self.seconds, ends)

    def after_step(self) -> list[Alert]:
        """The step is taken: keep its rows, and write an account where one is due. Returns the alerts raised."""
        with self.pace.working():
            taken = self.accountant.after_step()
            if taken is not None and self.instruments.bench.config.outputs.row_text != "none":
                ids = [fact.row_id for fact in taken.facts]
                self.ledger.row_texts(new_texts(taken.rows, ids, self._texts, self._tokenizer))
            raised = self.account() if self.accountant.due else []
            self.pace.step_taken(taken.nbytes if taken is not None else 0)
            self._heap.look(waiting=sum(step.nbytes for step in self.accountant.open_steps))
        return raised

    def account(self, more: bool = True) -> list[Alert]:
        """Measure, split, judge, write what is open; nothing where no step is. Where `more` steps follow, the probes of
        the next account are chosen. Returns the alerts raised."""
        if not self.accountant.open_steps:
            return []
        with self.pace.working():
            begun, audited = self._clock(), self.auditor.spent
            with trimmed(len(self.accountant.open_steps) > 1):
                raised = self._account()
            self.pace.account_made(self.accountant.spent, self._clock() - begun, audited)
            self._drift.note(self.accounts[-1], self._start)
            # What is found decides what is measured, and whether training stops: no rank may find otherwise.
            if self.instruments.ranks.of_first(self._drift.due(self.accountant.before, self._known)):
                raised += self._look(self.accounts[-1].step)
            if more:
                self._choose_probes()
            self.pace.account_over()
        return raised

    def _account(self) -> list[Alert]:
        account, audits = self.accountant.account()
        self.accounts.append(account)
        if audits:
            self.sinks.audits(audits)
        self.sinks.account(account)
        if len(self.accounts) == 1 and all(math.isnan(row.score) for row in account.rows):
            message = "No row up to step %d has a prompt of its own that was read: rows get no score."
            logger.warning(message, account.step)
        limits = self.instruments.bench.config.alerts
        raised = limit_alerts(self._behaviour, limits, account, self._known, self.auditor.entries)
        if limits.row_rate is not None:
            known, tolerance = self._outstanding, limits.row_tolerance
            on_rows = row_alert(self._behaviour, self.accounts, limits.row_rate, known, self._short, tolerance)
            raised += [on_rows] if on_rows else []
        return self._raise(raised)

    def finish(self, step: int, summary: Callable[[], dict[str, Any]]) -> list[Alert]:
        """The last snapshot of the whole set, the feature cards, and the sinks' end; hooks go, also after an error.
        Returns the alerts raised."""
        with self.pace.working():
            try:
                raised = self.account(more=False)
                if self.accountant.outside.look(step):
                    moved = moved_outside(self._behaviour, step)
                    raised += self._raise([moved] if moved.subject not in self._known else [])
                if self.last.step != step:
                    raised += self._look(step)
                drift = self.last.X.double() - self.first.X.double()
                self.ledger.feature_cards(feature_cards(self.instruments, self.last, drift, self._tokenizer))
            finally:
                self.close()
        self.sinks.finish({**summary(), "monitor_seconds": self.monitor_seconds})
        return raised

    def close(self) -> None:
        """Takes the hooks off."""
        self.accountant.close()
        leave(self)

    def _choose_probes(self) -> None:
        self.accountant.choose_probes(self.first)
        self.instruments = self.accountant.instruments

    def _look(self, step: int) -> list[Alert]:
        """Measures the whole set, unless the account just did; whether the behaviour has drifted on it."""
        probes, latest = self.instruments.bench.probes, self.accountant.before
        measured = latest.step == step and latest.probe_ids == probes.ids
        self.last = latest if measured else measure_set(self.instruments, probes, step)
        self.sinks.snapshot(self.last)
        self._drift.look(self.last)
        found = self._drift.found(self.last, self._known)
        raised = [drift_alert(self._behaviour, f, step, since, self.accounts, self._short) for f, since in found]
        if self.instruments.bench.config.alerts.drift_by == "outstanding":
            raised = [alert for alert in raised if by_outstanding(alert, self._outstanding)]
        return self._raise(raised)

    @property
    def _start(self) -> dict[str, float]:
        """Means by reading and kind at the first snapshot, of the plan's probes."""
        return readings_by_kind(self.accountant.start, self.instruments.bench.probes)[0]

    @property
    def _behaviour(self) -> str:
        """The name of what is watched."""
        return self.instruments.bench.config.behaviour.name

    @property
    def _short(self) -> set[int]:
        """Steps whose audit fell short."""
        limit = self.instruments.bench.config.alerts.audit
        return set() if limit is None else short_steps(self.auditor.entries, limit)

    @property
    def _outstanding(self) -> set[str]:
        """Rows that have been alerted because they stand out."""
        return {row for alert in self.alerts if alert.kind == "rows" for row in alert.rows}

    @property
    def _known(self) -> set[str]:
        """Subjects that have been alerted."""
        return {alert.subject for alert in self.alerts}

    def _raise(self, alerts: list[Alert]) -> list[Alert]:
        alerts = self.instruments.ranks.of_first(alerts)
        for alert in alerts:
            self.alerts.append(alert)
            self.sinks.alert(alert)
        return alerts
