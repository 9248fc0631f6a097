"""Where figures go: what a sink is, and the group that feeds several of them.

The local ledger is the truth: its errors stop the run. Any other sink may fail, or be slow, without taking anything
with it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..records.account import StepAccount
from ..records.alert import Alert
from ..records.audit import AuditEntry
from ..records.config import REFUSAL
from ..records.policy import SymbolicPolicy
from ..records.probes import ProbeSet
from ..records.snapshot import Snapshot

logger = logging.getLogger("smda_monitor")
PATIENCE, SHARE = 30.0, 0.1
"""A sink is given up once it has taken more than so many seconds and more than this share of the run's."""


@dataclass(frozen=True, slots=True)
class Past:
    """What a resumed run did before its checkpoint; empty for a new one."""

    accounts: tuple[StepAccount, ...] = ()
    """By step."""
    alerts: tuple[Alert, ...] = ()
    """In the order in which they were raised."""
    named: frozenset[str] = frozenset()
    """Ids of the rows whose text is kept already."""
    audits: tuple[AuditEntry, ...] = ()
    """By step."""
    looks: Sequence[Snapshot] = ()
    """Snapshots of the whole set, by step; the first is that before training."""


@dataclass(frozen=True, slots=True)
class RunHeader:
    """What is known before the first step."""

    folder: Path
    """The run folder, prepared by `run_folder.prepare_run_folder`."""
    probes: ProbeSet
    """The whole probe set, also where only a part of it is measured at each step."""
    policy: SymbolicPolicy
    """The symbolic policy of the run."""
    manifest: dict[str, Any]
    """Plain JSON values: the resolved config, versions, fingerprints; whatever makes the run repeatable."""
    past: Past = Past()
    """Of a resumed run."""
    behaviour: str = REFUSAL
    """The name of the behaviour that is watched."""


class Sink(Protocol):
    """Receives a run's records in order: `start`, then any of the four in the middle, then `finish`."""

    def start(self, run: RunHeader) -> None:
        """Called once, before the first snapshot; once more by a resumed run."""

    def snapshot(self, s: Snapshot) -> None:
        """A snapshot of the probes."""

    def audits(self, audits: Sequence[AuditEntry]) -> None:
        """All that were made of the steps of one account, before it; never none."""

    def account(self, a: StepAccount) -> None:
        """The account of one step; steps only grow."""

    def alert(self, a: Alert) -> None:
        """An alert."""

    def finish(self, summary: dict[str, Any]) -> None:
        """The end of the run, with its closing figures; ``summary["status"]`` is ``finished``, ``failed`` or
        ``stopped``, and ``finished`` where it says nothing."""


class NoLedger:
    """What a process has instead of a ledger while another writes it: takes everything and keeps nothing."""

    def start(self, run: RunHeader) -> None:
        """As of a `Sink`, as are the next five."""

    def snapshot(self, s: Snapshot) -> None:
        """Nothing."""

    def audits(self, audits: Sequence[AuditEntry]) -> None:
        """Nothing."""

    def account(self, a: StepAccount) -> None:
        """Nothing."""

    def alert(self, a: Alert) -> None:
        """Nothing."""

    def finish(self, summary: dict[str, Any]) -> None:
        """Nothing."""

    def row_texts(self, rows: list[dict[str, Any]]) -> None:
        """As of a ledger, as is the next."""

    def feature_cards(self, cards: list[dict[str, Any]]) -> None:
        """Nothing."""


@dataclass(frozen=True, slots=True)
class SinkFailure:
    """A sink that was dropped."""

    sink: str
    """Its class."""
    event: str
    """What it was given when it failed: ``start``, ``snapshot``, ``audits``, ``account``, ``alert`` or ``finish``."""
    error: str
    """The exception's type and text."""


class SinkGroup:
    """Feeds the ledger first, then every other sink. The ledger's exceptions propagate; another sink's first exception,
    or that it is too slow (`PATIENCE`), is logged once (standard error), kept in `failures` and under ``sink_failures``
    in the summary, and the sink is fed no more."""

    def __init__(self, ledger: Sink, others: Sequence[Sink] = (), clock: Callable[[], float] = time.monotonic) -> None:
        self.ledger = ledger
        self.others = list(others)
        self.failures: list[SinkFailure] = []
        self._clock, self._began = clock, clock()
        self._spent: dict[int, float] = {}

    def start(self, run: RunHeader) -> None:
        """To the ledger, then to the others."""
        self.ledger.start(run)
        self._feed("start", lambda sink: sink.start(run))

    def snapshot(self, s: Snapshot) -> None:
        """To the ledger, then to the others."""
        self.ledger.snapshot(s)
        self._feed("snapshot", lambda sink: sink.snapshot(s))

    def audits(self, audits: Sequence[AuditEntry]) -> None:
        """To the ledger, then to the others."""
        self.ledger.audits(audits)
        self._feed("audits", lambda sink: sink.audits(audits))

    def account(self, a: StepAccount) -> None:
        """To the ledger, then to the others."""
        self.ledger.account(a)
        self._feed("account", lambda sink: sink.account(a))

    def alert(self, a: Alert) -> None:
        """To the ledger, then to the others."""
        self.ledger.alert(a)
        self._feed("alert", lambda sink: sink.alert(a))

    def finish(self, summary: dict[str, Any]) -> None:
        """To the ledger, then to the others, with ``sink_failures`` in the summary where a sink was lost."""
        if self.failures:
            lost = [{"sink": f.sink, "event": f.event, "error": f.error} for f in self.failures]
            summary = {**summary, "sink_failures": lost}
        self.ledger.finish(summary)
        self._feed("finish", lambda sink: sink.finish(summary))

    def _feed(self, event: str, give: Callable[[Sink], None]) -> None:
        for sink in list(self.others):
            try:
                began = self._clock()
                give(sink)
                if event != "finish":
                    self._check_pace(sink, began)
            except Exception as error:
                name = type(sink).__name__
                self.others.remove(sink)
                self.failures.append(SinkFailure(name, event, f"{type(error).__name__}: {error}"))
                logger.error(
                    "%s failed at %s and gets no more figures (%s: %s). Training and the local ledger go on.",
                    name,
                    event,
                    type(error).__name__,
                    error,
                )

    def _check_pace(self, sink: Sink, began: float) -> None:
        """Raises `TimeoutError` where `sink`, fed since `began`, has cost training too much."""
        now = self._clock()
        spent = self._spent[id(sink)] = self._spent.get(id(sink), 0.0) + now - began
        if spent > max(PATIENCE, SHARE * (now - self._began)):
            raise TimeoutError(f"it has taken {spent:.0f} s of {now - self._began:.0f}")
