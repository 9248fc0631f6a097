"""What `smda check` prints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .text import plain


@dataclass(frozen=True, slots=True)
class CheckFindings:
    """Everything a check found."""

    facts: Mapping[str, str]
    """Name of a part and what it resolved to."""
    figures: Mapping[str, float]
    """The numbers among the facts; ``silent`` is the fraction of features active on no probe."""
    refusal: Mapping[str, float]
    """``mass.<kind>`` (log-odds) and ``contrast.<kind>`` (nats): means over the probe set."""


def print_findings(findings: CheckFindings) -> None:
    """Two tables: what was resolved, and the behaviour by probe kind."""
    console = Console()
    facts = Table(show_header=False, box=None)
    for name, fact in findings.facts.items():
        facts.add_row(escape(name), escape(plain(fact)))
    console.print(facts)
    readings = Table(title="behaviour by probe kind")
    for column in ("kind", "log-odds (mass)", "contrast, nats"):
        readings.add_column(column)
    for name, value in findings.refusal.items():
        reading, kind = name.split(".", 1)
        if reading == "mass":
            readings.add_row(escape(kind), f"{value:+.2f}", f"{findings.refusal[f'contrast.{kind}']:+.2f}")
    console.print(readings)
    console.print("Everything resolves; nothing was trained or written.")
