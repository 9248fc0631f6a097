"""``review.jsonl``: the rows that alerts name, for a person to look at: a line per alert and row, with the reason."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..records.account import StepAccount
from ..records.alert import Alert
from ..records.audit import AuditEntry
from ..records.snapshot import Snapshot
from .files import read_json_lines, to_json, write_text
from .sink import RunHeader

NAME = "review.jsonl"
"""In the run folder."""


class ReviewSink:
    """Writes ``review.jsonl``: ``id``, ``step``, ``alert`` (its subject), ``push`` and ``reason`` of every row named. A
    resumed run goes on in it, without what lies after its checkpoint."""

    def __init__(self) -> None:
        self._path = Path()

    def start(self, run: RunHeader) -> None:
        """Finds the folder."""
        self._path = run.folder / NAME
        if self._path.exists():
            known = {(alert.step, alert.subject) for alert in run.past.alerts}
            lines = read_json_lines(self._path, "review")
            kept = [line for line in lines if (line["step"], line["alert"]) in known]
            write_text(self._path, "".join(to_json(line) + "\n" for line in kept))

    def snapshot(self, s: Snapshot) -> None:
        """Nothing to review."""

    def audits(self, audits: Sequence[AuditEntry]) -> None:
        """Nothing to review."""

    def account(self, a: StepAccount) -> None:
        """Nothing to review."""

    def alert(self, a: Alert) -> None:
        """Appends the alert's rows."""
        lines = (
            {"id": row, "step": a.step, "alert": a.subject, "push": push, "reason": _reason(a, push)}
            for row, push in zip(a.rows, a.pushes, strict=True)
        )
        with self._path.open("a", encoding="utf-8") as handle:
            handle.write("".join(to_json(line) + "\n" for line in lines))
            handle.flush()
            os.fsync(handle.fileno())

    def finish(self, summary: dict[str, Any]) -> None:
        """All is written."""


def _reason(a: Alert, push: float) -> str:
    if a.kind == "drift":
        pushed = a.quantity.partition(" since ")[0].partition(" through ")[0]
        return f"It pushed {pushed} by {push:+.3g} nats, the way it drifted: {a.title}."
    return f"Its score stands out, and it pushed the contrast of its own prompt by {push:+.3g} nats: {a.title}."
