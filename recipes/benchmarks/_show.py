"""What both benchmarks print."""

from __future__ import annotations

from collections.abc import Sequence

WIDTH = 160
"""Columns where there is no terminal to ask."""


def number(value: float | None, form: str = ".3g") -> str:
    """`value` in the format `form`; a dash for None and NaN."""
    return "–" if value is None or value != value else format(value, form)


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], note: str) -> None:
    """A table on standard output, and what its cells are."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console = Console(width=WIDTH, highlight=False, markup=False)
    table = Table(*columns, title=title)
    for row in rows:
        table.add_row(*row)
    console.print(table)
    console.print(note)
