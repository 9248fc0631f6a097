"""Scores of the same rows for several behaviours, side by side: one column for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from .files import write_atomic
from .text import number, plain
from .wide_console import wide_console

SCORES = "scores.parquet"
"""The file, in an audit's folder and in the one around several."""
LEADING = 10
"""Rows printed for each behaviour."""
NAMES = ("line", "row_id", "row_hash")
"""What a row is known by, before its scores."""


def column_name(behaviour: str) -> str:
    """Of a behaviour's scores."""
    return f"score.{behaviour}"


def write_behaviour_scores(path: Path, audits: Mapping[str, Path]) -> None:
    """One line per row by its line in the data: its names, then ``score.<behaviour>`` for each of `audits` (at least
    one), whose folders hold ``scores.parquet``; null where a row has no score, or was left out of that audit."""
    import pyarrow.parquet as pq

    joined = None
    for behaviour, folder in audits.items():
        scores = pq.read_table(folder / SCORES, columns=[*NAMES, "score"])
        scores = scores.rename_columns([*NAMES, column_name(behaviour)])
        joined = scores if joined is None else joined.join(scores, list(NAMES), join_type="full outer")
    assert joined is not None
    ordered = joined.sort_by("line")
    write_atomic(path, lambda temporary: pq.write_table(ordered, temporary, compression="zstd"))


def leading_rows(scores: Any, behaviour: str, count: int) -> list[dict[str, Any]]:
    """The first `count` lines by the behaviour's score of the Arrow table that `write_behaviour_scores` wrote; rows
    without one last."""
    ordered = scores.sort_by([(column_name(behaviour), "descending")])
    found: list[dict[str, Any]] = ordered.slice(0, count).to_pylist()
    return found


def print_behaviours(path: Path, behaviours: Sequence[str]) -> None:
    """The rows that lead for each of the `behaviours`, with their scores for all of them, from what
    `write_behaviour_scores` wrote to `path`."""
    import pyarrow.parquet as pq

    console = wide_console()
    scores = pq.read_table(path)
    for behaviour in behaviours:
        table = Table(title=Text(f"Leading rows by score for {plain(behaviour, 40)}"), title_justify="left")
        table.add_column("row", no_wrap=True)
        for name in ("line", *behaviours):
            table.add_column(Text(plain(name, 40)), justify="right", no_wrap=True)
        for row in leading_rows(scores, behaviour, LEADING):
            found = [row[column_name(name)] for name in behaviours]
            cells = [plain(row["row_id"], 40), str(row["line"])]
            cells += ["n/a" if score is None else number(score) for score in found]
            table.add_row(*map(Text, cells))
        console.print(table)
    console.print(Text(f"The scores of all rows, side by side: {plain(str(path))}"), soft_wrap=True)
