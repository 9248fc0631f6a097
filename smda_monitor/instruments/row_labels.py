"""What a data set itself calls its rows: a column of labels, which nothing is judged by."""

from __future__ import annotations

from collections.abc import Mapping

from .row_files import originals
from .row_store import TrainingRows

KIND = "kind"
"""The column that names kinds of rows."""


def row_labels(rows: TrainingRows) -> dict[int, str]:
    """The labels in the column `KIND` of the source of `rows`, by line, of the kept rows that have one; empty where
    there is no such column. Raises `ConfigError` as `row_files.originals`."""
    found: dict[int, str] = {}
    known: dict[str, str] = {}
    for line, row_id, raw in originals(rows):
        label = raw.get(KIND) if row_id is not None and isinstance(raw, Mapping) else None
        if label is not None and str(label).strip():
            found[line] = known.setdefault(str(label), str(label))  # one text for all rows of a kind
    return found
