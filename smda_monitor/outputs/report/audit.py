"""The report's section on the self-audit: how close pushes come to replays of single rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...maths.fidelity import Fidelity, pooled_fidelity
from ...records.audit import AuditEntry

ASKED_ROWS = 20
"""Rows asked for that are listed, the latest."""


@dataclass(frozen=True, slots=True)
class AuditLine:
    """One line of the table."""

    target: str
    """Name of the target, or ``all``."""
    fidelity: Fidelity
    """Its figures."""


@dataclass(frozen=True, slots=True)
class AuditSection:
    """What the section shows."""

    sentence: str
    """How many rows, and of which steps."""
    mark: str
    """Behind every count: ``*`` where it is of warm-up steps, else nothing."""
    lines: list[AuditLine]
    """All targets together, then each."""
    asked: list[AuditEntry]
    """Rows that were asked for by id, by step."""


def audit_section(audits: Sequence[AuditEntry]) -> AuditSection | None:
    """The section of a run's `audits`; None for none."""
    if not audits:
        return None
    pooled = pooled_fidelity(audits)
    rows = "1 row was" if pooled.rows == 1 else f"{pooled.rows} rows were"
    when = (
        "of steps after warm-up; those of warm-up are left out"
        if pooled.after_warm_up
        else "all of warm-up steps (marked *), whose figures carry low confidence"
    )
    sentence = (
        f"How far the pushes can be trusted, measured in this run: {rows} left out of a step that was replayed "
        f"exactly, {when}. The error is |push − replay| / |replay|."
    )
    lines = [AuditLine("all", pooled.overall), *(AuditLine(name, f) for name, f in pooled.targets.items())]
    asked = [a for a in audits if a.reason == "asked"][-ASKED_ROWS:]
    return AuditSection(sentence, "" if pooled.after_warm_up else "*", lines, asked)
