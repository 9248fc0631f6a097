"""Pairs of prompt and answer from any file: a part of them, and which are harmful by the file's own word."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from smda_monitor.errors import ConfigError
from smda_monitor.instruments.row_files import column
from smda_monitor.instruments.row_store import TrainingRows

COLUMNS = ("kind", "label")
"""Where a file may say it, in this order."""
HARMFUL, HARMLESS = "harmful", "harmless"


def sides(rows: TrainingRows, name: str | None) -> dict[str, str]:
    """Row id → ``harmful`` or ``harmless`` by the column `name`, or by the first of `COLUMNS` that the file has.

    Harmful is what begins with that word (``harmful_refusal``), and 1; all else is harmless, and a row without a value
    has no side. Empty where there is no such column. Raises `ConfigError` where `name` is not there.
    """
    for candidate in (name,) if name is not None else COLUMNS:
        try:
            values: Mapping[str, Any] = column(rows, candidate)
        except ConfigError:
            if name is not None:
                raise
            continue
        return {row_id: _side(value) for row_id, value in values.items() if value is not None}
    return {}


def _side(value: object) -> str:
    word = str(value).strip().lower()
    return HARMFUL if word.startswith(HARMFUL) or word in ("1", "true") else HARMLESS


def write_part(rows: TrainingRows, count: int, path: Path) -> None:
    """`count` of the rows, evenly spread over the file, so that a file that is sorted by kind keeps its kinds; with
    their ids, as JSONL. All of them where there are no more."""
    count = min(count, len(rows))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as stream:
        for i in range(count):
            row = rows.data[i * len(rows) // count]
            content = {key: row[key] for key in ("id", "prompt", "completion", "messages") if key in row}
            stream.write(json.dumps(content) + "\n")
