"""An alert: what moved, by how much against what threshold, which rows did it, and what to do."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert; the same subject is alerted once per run."""

    step: int
    """The optimizer step at which it was raised."""
    subject: str
    """What moved, e.g. ``refusal of benign probes`` or ``row demo-017``; one alert per subject and run."""
    quantity: str
    """The figure that crossed, e.g. ``mass.benign since step 0``."""
    value: float
    """The figure."""
    threshold: float
    """The limit it crossed, in the figure's units."""
    rows: tuple[str, ...]
    """Ids of the rows that pushed it most, strongest first; at most ten."""
    advice: str
    """What to do next, one sentence."""

    @property
    def title(self) -> str:
        """Names the subject, for a subject line."""
        return f"{self.subject}: {self.quantity} {self.value:+.3g} (threshold {self.threshold:.3g})"
