"""What `smda audit` prints when it is done: how many rows, how close, and the most suspicious ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from .text import duration, number, percent, plain
from .wide_console import wide_console

LEADING = 10
"""Rows listed; the files hold all."""


def print_audit(folder: Path, figures: Mapping[str, Any], leading: Sequence[Mapping[str, Any]]) -> None:
    """`leading` are lines of ``scores.parquet``, the most suspicious first."""
    console = wide_console()
    table = Table(title="Leading rows by score", title_justify="left")
    table.add_column("row", no_wrap=True)
    for name in ("line", "score", "S", "S_X", "S_Y"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in leading:
        cells = [
            plain(row["row_id"], 40),
            str(row["line"]),
            *(number(row[name]) for name in ("score", "S", "S_X", "S_Y")),
        ]
        table.add_row(*map(Text, cells))
    console.print(table)
    if (found := figures["gradient_vs_replay"]) is not None:
        for name, error in found["relative_error"].items():
            told = f"{name} by gradient against replay: Spearman {found[name]:.4f}, off by {percent(error)}"
            console.print(Text(told))
        told = f"{found['times_faster']:.1f} times faster than replay, by the {found['rows']} rows judged both ways"
        console.print(Text(told))
    if figures["auroc_controls"] is not None:
        by_kind = ", ".join(
            f"{plain(kind, 40)} {found:.3f}"
            for kind, found in figures["auroc_controls_by_kind"].items()
            if found is not None
        )
        found = f"{figures['auroc_controls']:.3f}"
        console.print(Text(f"Planted rows against their controls by score: AUROC {found} (by kind: {by_kind})"))
    rows, left_out, scored = figures["rows"], figures["left_out"], figures["scored"]
    took = duration(figures["seconds"])
    console.print(
        Text(f"{rows} rows judged in {took}, {scored} of them scored, {left_out} left out: {plain(str(folder))}")
    )
