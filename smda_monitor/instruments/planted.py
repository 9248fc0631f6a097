"""Which rows of a data set are known to be planted: those that name a control beside their kind, as the demo's do."""

from __future__ import annotations

from collections.abc import Mapping

from .row_files import originals
from .row_store import TrainingRows

COLUMNS = ("kind", "control")
"""The columns that mark them; training and judging see neither."""


def planted_rows(rows: TrainingRows) -> list[int]:
    """Places in `rows.data`, rising, of the rows with a ``kind`` whose ``control``, the id of a matched row, is set;
    empty where the data have no such columns. Raises `ConfigError` as `row_files.originals`."""
    kept = (raw for _, row_id, raw in originals(rows) if row_id is not None)
    return [
        place
        for place, raw in enumerate(kept)
        if isinstance(raw, Mapping) and all(raw.get(name) is not None for name in COLUMNS)
    ]
