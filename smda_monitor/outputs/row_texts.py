"""Texts of an audit's leading rows, ``rows.jsonl``: there only where the configuration allows it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from .files import to_json, write_text

NAME = "rows.jsonl"
"""The file; read back by `ledger_reader.read_row_texts`."""
KEPT = 50
"""Rows whose text is kept, those with the highest score."""
_KEYS = ("id", "hash", "prompt", "response")


def write_row_texts(folder: Path, rows: Iterable[Mapping[str, str]]) -> None:
    """Writes ``id``, ``hash``, ``prompt`` and ``response`` of `rows`, in place of what was there. Only call it where
    ``outputs.row_text`` is not ``none``: training text is private."""
    write_text(folder / NAME, "".join(to_json({key: row[key] for key in _KEYS}) + "\n" for row in rows))


def drop_row_texts(folder: Path) -> None:
    """Removes what an earlier, more permissive configuration left."""
    (folder / NAME).unlink(missing_ok=True)
