"""An alert: what moved, since when, by how much against what threshold, which rows did it, and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

AlertKind = Literal["drift", "rows", "account"]
"""The behaviour has drifted; rows stand out; an account, or the self-audit, misses a limit."""


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert; the same subject is alerted once per run."""

    kind: AlertKind
    """What it is about."""
    step: int
    """The optimizer step at which it was raised."""
    since: int
    """Of a drift: the step since which every account has it so. Of rows: the first step that one of them was in. Else
    `step`."""
    subject: str
    """What moved, by which behaviour, e.g. ``refusal of benign probes`` or ``row demo-017 by refusal``; one alert per
    subject and run."""
    quantity: str
    """The figure that crossed, e.g. ``mass.benign since step 0``."""
    value: float
    """The figure."""
    threshold: float
    """The limit that it crossed, in the figure's units: the tolerance of a drift."""
    evidence: float | None
    """Of a drift: against its lying within the tolerance, to 1 (`maths.drift`); at least the number of directions
    judged over the false-alarm rate. None where a plain limit was crossed."""
    rows: tuple[str, ...]
    """Ids of the rows that pushed it most, strongest first; at most ten."""
    pushes: tuple[float, ...]
    """What each of `rows` pushed the drifting figure over all accounts, nats: the whole reading, where the policy's
    reading drifted through some features. Of an alert on rows: the contrast of its own prompt."""
    advice: str
    """What to do next, one sentence."""

    @property
    def title(self) -> str:
        """Names the subject, for a subject line."""
        if self.evidence is None:
            return f"{self.subject}: {self.quantity} {self.value:+.3g} (threshold {self.threshold:.3g})"
        evidence = f"evidence {self.evidence:.3g} to 1"
        return f"{self.subject}: {self.quantity} {self.value:+.3g} (tolerance {self.threshold:+.3g}, {evidence})"
