"""One monitored run: from the trainer's events to snapshots, accounts, alerts and sinks. Wiring, no arithmetic."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from typing import Any

from torch import nn

from .accounting import Accountant
from .audit import Auditor
from .instruments.assemble import Instruments
from .instruments.feature_cards import feature_cards
from .instruments.quiet import quiet
from .instruments.row_identity import RowNames, new_texts
from .maths.alerts import threshold_alerts
from .maths.by_kind import readings_by_kind
from .outputs.ledger import Ledger
from .outputs.sink import Past, SinkGroup
from .records.account import Method, StepAccount
from .records.alert import Alert
from .records.snapshot import Snapshot

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
        self._tokenizer = tokenizer
        self.accountant = Accountant(instruments, names, args, step, method)
        self.accounts: list[StepAccount] = []
        self.alerts: list[Alert] = []
        self._texts: set[str] = set()
        self._resumed = first is not None
        self.first = self.last = first or self._whole(step)
        self.accountant.start = instruments.plan.part(self.first)
        self.monitor_seconds = self.seconds

    def open(self, sinks: SinkGroup, ledger: Ledger, past: Past) -> None:
        """The folder is ready: the first snapshot goes there, what a resumed run did is taken up, hooks go on."""
        self.sinks, self.ledger = sinks, ledger
        self.accounts += past.accounts
        self.alerts += past.alerts
        self.auditor.entries += past.audits
        self.accountant.watcher.resume(past.accounts)
        self._texts |= past.named
        if not self._resumed:
            sinks.snapshot(self.first)
        self.accountant.open()

    @property
    def auditor(self) -> Auditor:
        """Of its accounts."""
        return self.accountant.auditor

    @property
    def seconds(self) -> float:
        """Wall time since the run was set up."""
        return time.perf_counter() - self._began

    def refusal(self) -> tuple[dict[str, float], dict[str, float]]:
        """Refusal by reading and kind on the whole set, at the first and at the latest snapshot of it."""
        probes = self.instruments.bench.probes
        return readings_by_kind(self.first, probes)[0], readings_by_kind(self.last, probes)[0]

    def before_step(self, optimizer: Any, number: int) -> None:
        """The gradient of the coming step is whole and clipped: keep it, and the optimizer's state."""
        clock = time.perf_counter()
        self.accountant.before_step(optimizer, number, self.seconds)
        self.monitor_seconds += time.perf_counter() - clock

    def after_step(self) -> list[Alert]:
        """The step is taken: keep its rows, and write an account where one is due. Returns the alerts raised."""
        clock = time.perf_counter()
        taken = self.accountant.after_step()
        if taken is not None and self.instruments.bench.config.outputs.row_text != "none":
            ids = [fact.row_id for fact in taken.facts]
            self.ledger.row_texts(new_texts(taken.rows, ids, self._texts, self._tokenizer))
        raised = self.account() if self.accountant.due else []
        self.monitor_seconds += time.perf_counter() - clock
        return raised

    def account(self) -> list[Alert]:
        """Measure, split, judge, write what is open; nothing where no step is. Returns the alerts raised."""
        if not self.accountant.open_steps:
            return []
        account, audits = self.accountant.account()
        self.accounts.append(account)
        if audits:
            self.sinks.audits(audits)
        self.sinks.account(account)
        if len(self.accounts) == 1 and all(math.isnan(row.score) for row in account.rows):
            message = "No row up to step %d has a prompt of its own that was read: rows get no score."
            logger.warning(message, account.step)
        return self._alerts()

    def finish(self, step: int, summary: Callable[[], dict[str, Any]]) -> None:
        """The last snapshot of the whole set, the feature cards, and the sinks' end; hooks go, also after an error."""
        clock = time.perf_counter()
        try:
            self.account()
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
        self.accountant.close()

    def _whole(self, step: int) -> Snapshot:
        probes, reader = self.instruments.bench.probes, self.instruments.reader
        with quiet(self.model):
            measured = reader.measure(self.instruments.tokens(list(range(len(probes)))))
        return reader.snapshot(step, probes.ids, measured)

    def _alerts(self) -> list[Alert]:
        start, _ = readings_by_kind(self.accountant.start, self.instruments.bench.probes)
        known = {alert.subject for alert in self.alerts}
        limits = self.instruments.bench.config.alerts
        raised = threshold_alerts(limits, start, self.accounts, known, self.auditor.entries)
        for alert in raised:
            self.alerts.append(alert)
            self.sinks.alert(alert)
        return raised
