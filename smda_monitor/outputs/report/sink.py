"""The report as a sink: written at the end of the run, after the ledger is closed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...records.account import StepAccount
from ...records.alert import Alert
from ...records.audit import AuditEntry
from ...records.snapshot import Snapshot
from ..sink import RunHeader
from .write import write_report


class ReportSink:
    """A `Sink` that writes ``report.html`` at `finish`. Put it before a `WandbSink` and a `ConsoleSink`, which look for
    the file."""

    def __init__(self) -> None:
        self._folder: Path | None = None

    def start(self, run: RunHeader) -> None:
        """Remembers the run folder."""
        self._folder = run.folder

    def snapshot(self, s: Snapshot) -> None:
        """Read from the ledger at the end."""

    def audits(self, audits: Sequence[AuditEntry]) -> None:
        """Read from the ledger at the end."""

    def account(self, a: StepAccount) -> None:
        """Read from the ledger at the end."""

    def alert(self, a: Alert) -> None:
        """Read from the ledger at the end."""

    def finish(self, summary: dict[str, Any]) -> None:
        """Writes the report."""
        if self._folder is not None:
            write_report(self._folder)
