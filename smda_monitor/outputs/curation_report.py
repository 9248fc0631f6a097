"""What `smda curate` prints: how many rows go where, by which line, and the first of those to remove."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from ..records.curation import BUCKETS, MedianCut, RowFigures, ScoreCut
from .text import number, plain
from .wide_console import wide_console

LEADING = 10
"""Rows listed; the files hold all."""


def print_curation(
    folder: Path, counts: Mapping[str, int], cut: ScoreCut | MedianCut, removed: Sequence[RowFigures]
) -> None:
    """`removed` are the rows to remove, in any order."""
    console = wide_console()
    if removed:
        console.print(_table(removed))
    for line in cut_lines(cut):
        console.print(Text(line), soft_wrap=True)
    total = ", ".join(f"{counts[bucket]} {bucket}" for bucket in BUCKETS)
    console.print(Text(f"{sum(counts.values())} rows: {total}: {plain(str(folder))}"), soft_wrap=True)


def cut_lines(cut: ScoreCut | MedianCut) -> list[str]:
    """Where the lines were drawn, in words."""
    if isinstance(cut, MedianCut):
        medians = f"harmful {number(cut.harmful)}, harmless {number(cut.harmless)}"
        return [f"Median rule: rows on the wrong side of the other sort's median S ({medians})."]
    where = f"{number(cut.centre)}, standard deviation {number(cut.spread)}"
    bulk = f"The rows' bulk lies at {where}, of score over what is usual."
    if cut.threshold == float("inf"):
        return [bulk, f"No row stands out of it at a false-discovery rate of {cut.rate:g}."]
    rate = f"At a false-discovery rate of {cut.rate:g} rows from {number(cut.threshold)} on are flagged"
    return [bulk, f"{rate}; were the bulk symmetric, {min(cut.mirrored, 1.0):.2f} of them would be chance."]


def _table(removed: Sequence[RowFigures]) -> Table:
    title = f"The first {min(LEADING, len(removed))} of {len(removed)} rows to remove"
    table = Table(title=title, title_justify="left")
    table.add_column("row", no_wrap=True)
    for name in ("line", "score", "S", "calls for", "own push", "answer", "interference"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in sorted(removed, key=lambda one: -one.score)[:LEADING]:
        figures: list[Any] = [row.score, row.S, row.expected, row.own_push, row.answer_reading, row.interference]
        cells = [plain(row.row_id, 40), str(row.line), *map(number, figures)]
        table.add_row(*map(Text, cells))
    return table
