"""What `smda policy` prints: fidelity beside baselines, leading coefficients, and gaps by category."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..records.policy_findings import CategoryGap, Estimate, PolicyFindings
from .text import number, plain
from .wide_console import wide_console

LEADING = 10
"""Coefficients listed; the files hold all."""
_UNITS = {"mass": "log-odds", "log_probability": "log-probability"}


def print_policy(findings: PolicyFindings, console: Console | None = None) -> None:
    """Facts, then fidelity, coefficients and gaps."""
    console = console or wide_console()
    facts = Table(show_header=False, box=None)
    for name, fact in findings.facts.items():
        facts.add_row(_inert(name), _inert(fact))
    tables = [facts, _fidelity(findings), _coefficients(findings), _gaps(findings), _carriers(findings)]
    for table in tables:
        console.print(table)
    flagged = sum(bool(gap.flags) for gap in findings.gaps)
    closing = f"{flagged} of {len(findings.gaps)} categories are flagged. Intervals are 95 % bootstraps over prompts."
    console.print(_inert(closing), soft_wrap=True)


def _fidelity(findings: PolicyFindings) -> Table:
    found = findings.fidelity
    units = _UNITS[findings.reading]
    title = f"Fidelity on {found.prompts} held-out prompts; threshold {number(found.threshold)} {units}"
    table = _table(title, ("prediction",), ("R²", "accuracy", "over majority"))
    for variant in found.variants:
        name = f"{'with' if variant.intercept else 'without'} intercept{' (the policy)' if variant.is_policy else ''}"
        cells = (_figure(variant.r2), _share(variant.accuracy), _points(variant.over_majority))
        _add(table, name, *cells)
    _add(table, "constant: mean of the fit set", _figure(found.r2_constant), "", "")
    _add(table, "majority: always the same side", "", _share(found.majority), "")
    return table


def _coefficients(findings: PolicyFindings) -> Table:
    shown = findings.coefficients[:LEADING]
    title = f"Leading {len(shown)} of {len(findings.coefficients)} coefficients by |w|·std(X)"
    table = _table(title, ("feature",), ("w", "95 % interval", "std(X)", "|w|·std(X)"), ("writes", "strongest on"))
    cards = {card["feature"]: card for card in findings.cards}
    for one in shown:
        card = cards.get(one.feature, {"top_tokens": [], "top_probes": []})
        interval = "n/a" if one.low != one.low else f"[{number(one.low)}, {number(one.high)}]"
        strongest = [plain(probe["id"], 34) for probe in card["top_probes"][:1]]
        figures = (number(one.coef), interval, f"{one.spread:.3g}", f"{one.effect:.3g}")
        _add(table, str(one.feature), *figures, _tokens(card), "".join(strongest))
    return table


def _gaps(findings: PolicyFindings) -> Table:
    chances = findings.reading == "mass"
    side = "as probability; flags count from one half"
    if not chances:
        side = f"mean {_UNITS[findings.reading]}; flags count from the threshold, {number(findings.limit)}"
    title = f"{findings.behaviour} by category, {side}"
    names = ("harmful", "policy says", "look-alike", "policy says")
    table = _table(title, ("category",), names, ("flags",))
    for gap in findings.gaps:
        means = (*gap.harmful.judged(findings.reading), *gap.lookalike.judged(findings.reading))
        cells = map(_share if chances else _figure, means)
        _add(table, plain(gap.category, 30), *cells, "; ".join(gap.flags))
    return table


def _carriers(findings: PolicyFindings) -> Table:
    title = f"Harmful less look-alike, {_UNITS[findings.reading]}, and the features that carry the policy's difference"
    table = _table(title, ("category",), ("measured", "policy says"), ("carried by",))
    cards = {card["feature"]: card for card in findings.cards}
    for gap in findings.gaps:
        cells = (_figure(gap.difference.measured_y), _figure(gap.difference.predicted_y))
        _add(table, plain(gap.category, 30), *cells, _carried(gap, cards))
    return table


def _carried(gap: CategoryGap, cards: dict[int, dict[str, Any]]) -> str:
    names = []
    for one in gap.features[:3]:
        tokens = _tokens(cards.get(one.feature, {"top_tokens": []}), 2)
        names.append(f"{one.feature} {number(one.contribution, 2)}" + (f" ({tokens})" if tokens else ""))
    return ", ".join(names)


def _tokens(card: dict[str, Any], count: int = 3) -> str:
    return " ".join(plain(token, 12) for token in card["top_tokens"][:count])


def _figure(found: Estimate) -> str:
    return _with_interval(number(found.value), number(found.low), number(found.high), found)


def _share(found: Estimate) -> str:
    value, low, high = (f"{100 * part:.0f}" for part in (found.value, found.low, found.high))
    return _with_interval(f"{value} %", low, high, found)


def _points(found: Estimate) -> str:
    value, low, high = (f"{100 * part:+.0f}" for part in (found.value, found.low, found.high))
    return _with_interval(f"{value} points", low, high, found)


def _with_interval(value: str, low: str, high: str, found: Estimate) -> str:
    if found.value != found.value:
        return "n/a"
    return value if found.low != found.low else f"{value} [{low}, {high}]"


def _table(title: str, texts: Sequence[str], figures: Sequence[str], more: Sequence[str] = ()) -> Table:
    table = Table(title=_inert(title), title_justify="left")
    for name in texts:
        table.add_column(name, no_wrap=True)
    for name in figures:
        table.add_column(name, justify="right", no_wrap=True)
    for name in more:
        table.add_column(name)
    return table


def _add(table: Table, *cells: str) -> None:
    table.add_row(*map(_inert, cells))


def _inert(cell: str) -> Text:
    """A cell that rich prints as it is: a `Text` is not searched for markup."""
    return Text(plain(cell))
