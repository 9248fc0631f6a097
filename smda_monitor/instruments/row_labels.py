"""What a data set itself calls its rows: a column of labels, which nothing is judged by."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from ..errors import ConfigError
from .row_sources import open_rows

KIND = "kind"
"""The column that names kinds of rows."""


def read_labels(data: str | Path, lines: Collection[int], column: str = KIND) -> dict[int, str]:
    """The labels in `column` of `data` (named as for `row_sources.open_rows`) by line, of the rows at `lines` that have
    one; empty where there is no such column. Raises `ConfigError` where the data break off."""
    wanted = frozenset(lines)
    try:
        source = open_rows(data, also=(column,))
    except ConfigError:  # a table without that column; that it can be read at all has been seen before
        return {}
    labels = ((line, row.get(column)) for line, row in source.rows if line in wanted and isinstance(row, dict))
    return {line: str(label) for line, label in labels if label is not None and str(label).strip()}
