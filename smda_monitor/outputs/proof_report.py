"""What `smda prove` prints: the behaviour by kind of prompt in every arm, how much is recovered, what that shows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..records.policy_findings import Estimate
from ..records.proof import ProofFigures
from .proof_finding import finding_sentence
from .text import duration, number, plain
from .wide_console import wide_console

_TAKEN = {"all": "none (all rows)", "flagged": "flagged rows", "random": "random rows", "planted": "planted rows"}


def print_proof(
    folder: Path, figures: ProofFigures, facts: Mapping[str, Any], behaviour: str, console: Console | None = None
) -> None:
    """`facts` are the counts of ``proof.json``."""
    console = console or wide_console()
    console.print(_table(figures, behaviour))
    for line in finding_lines(figures, facts):
        console.print(Text(line), soft_wrap=True)
    took = f"{facts['trainings']} trainings of {facts['steps']} steps in {duration(facts['seconds'])}"
    console.print(Text(f"{took}: {plain(str(folder))}"), soft_wrap=True)


def finding_lines(figures: ProofFigures, facts: Mapping[str, Any]) -> list[str]:
    """What is shown and what not, in words."""
    lines = []
    flagged, planted = facts["flagged_rows"], facts["planted_rows"]
    recovery = figures.recovery
    if recovery is not None:
        lines.append(
            f"{flagged} rows are flagged, {facts['planted_flagged']} of the {planted} planted ones among them."
        )
        lines.append("Of what taking out the planted rows does to the held-out prompts' log-odds,")
        parts = (
            ("flagged", recovery.flagged, recovery.flagged_apart),
            ("random", recovery.random, recovery.random_apart),
        )
        for name, part, apart in parts:
            noise = f"{apart:.2f} without noise that counts twice" if apart == apart else "seeds do not agree on it"
            lines.append(f"  taking out the {name} rows does {_plain_figure(part)} ({noise})")
    lines.append(finding_sentence(figures.finding, recovery is not None))
    return lines


def _table(figures: ProofFigures, behaviour: str) -> Table:
    title = f"{behaviour} on held-out prompts by what was taken out; changes are against all rows"
    table = Table(title=Text(plain(title)), title_justify="left")
    for name in ("kind", "taken out"):
        table.add_column(name, no_wrap=True)
    for name in ("log-odds", "change", "scorer", "decoding"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in sorted(figures.kinds, key=lambda one: one.kind == ""):
        change = "" if not one.change else _figure(one.change["log_odds"])
        shares = (_share(one.level[name]) for name in ("scorer", "decoding"))
        cells = (one.kind or "every", _TAKEN[one.arm], number(one.level["log_odds"].value), change, *shares)
        table.add_row(*map(Text, cells))
    return table


def _figure(found: Estimate) -> str:
    return f"{number(found.value)} [{number(found.low)}, {number(found.high)}]"


def _plain_figure(found: Estimate) -> str:
    value, low, high = (f"{part:.2f}" if part == part else "n/a" for part in (found.value, found.low, found.high))
    return f"{value} [{low}, {high}]"


def _share(found: Estimate) -> str:
    value, low, high = (f"{100 * part:.0f}" for part in (found.value, found.low, found.high))
    return f"{value} % [{low}, {high}]"
