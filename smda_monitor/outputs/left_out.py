"""The report of the rows that are not trained on: one JSON object a line."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..records.training_row import LeftOutRow
from .files import to_json, write_atomic


def write_left_out(path: Path, rows: Iterable[LeftOutRow]) -> int:
    """Writes `rows`, one ``{"line", "id", "reason"}`` a line, atomically and one at a time; how many there were.

    Raises `OSError` where the disk refuses; `path` is then as it was.
    """
    number = 0

    def write(temporary: Path) -> None:
        nonlocal number
        with temporary.open("w", encoding="ascii", newline="\n") as stream:
            for row in rows:
                number += 1
                stream.write(to_json({"line": row.line, "id": row.id, "reason": row.reason}) + "\n")

    write_atomic(path, write)
    return number
