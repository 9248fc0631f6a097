"""Scores of the same rows for several behaviours, side by side: one column for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .files import write_atomic
from .text import number, plain

if TYPE_CHECKING:
    from rich.console import Console

LEADING = 10
"""Rows printed for each behaviour."""
NAMES = ("line", "row_id", "row_hash")
"""What a row is known by, before its scores."""


def write_behaviour_scores(path: Path, audits: Mapping[str, Path]) -> None:
    """One line per row by its line in the data: its names, then ``score.<behaviour>`` for each of `audits`, whose
    folders hold ``scores.parquet``; null where a row has no score."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names: dict[int, dict[str, Any]] = {}
    scores: dict[str, dict[int, float | None]] = {}
    for behaviour, folder in audits.items():
        rows = pq.read_table(folder / "scores.parquet").to_pylist()
        names |= {row["line"]: {name: row[name] for name in NAMES} for row in rows}
        scores[behaviour] = {row["line"]: row["score"] for row in rows}
    lines = sorted(names)
    table = pa.table({name: [names[line][name] for line in lines] for name in NAMES})
    for behaviour, found in scores.items():
        column = pa.array([found.get(line) for line in lines], pa.float64())
        table = table.append_column(column_name(behaviour), column)
    write_atomic(path, lambda temporary: pq.write_table(table, temporary, compression="zstd"))


def column_name(behaviour: str) -> str:
    """Of a behaviour's scores."""
    return f"score.{behaviour}"


def print_behaviours(path: Path, behaviours: Sequence[str], console: Console | None = None) -> None:
    """The rows that lead for each of the `behaviours`, with their scores for all of them."""
    import pyarrow.parquet as pq
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = console or Console()
    rows = pq.read_table(path).to_pylist()
    for behaviour in behaviours:
        own = column_name(behaviour)
        leading = sorted((row for row in rows if row[own] is not None), key=lambda row: -row[own])[:LEADING]
        table = Table(title=f"Leading rows by score for {plain(behaviour, 40)}", title_justify="left")
        for name in ("row", "line", *(plain(one, 40) for one in behaviours)):
            table.add_column(Text(name), no_wrap=True)
        for row in leading:
            cells = [plain(row["row_id"], 40), str(row["line"])]
            for one in behaviours:
                score = row[column_name(one)]
                cells.append("n/a" if score is None else number(score))
            table.add_row(*map(Text, cells))
        console.print(table)
    console.print(Text(f"Every row's scores: {path}"), soft_wrap=True)
