"""What the monitor cost a run, and what it chose to measure for that."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Overhead:
    """Time over plain training, of one process: a resumed run begins anew."""

    asked: float | None
    """The budget, as a fraction of plain training time; None where none was set."""
    measured: float
    """Monitor seconds / (all seconds − monitor seconds), both since just before the first step, with the last snapshot
    of the whole probe set; NaN before any plain time has passed."""
    every: int
    """Steps between two snapshots, at the end."""
    probes: int
    """Probes measured at each, at the end."""
