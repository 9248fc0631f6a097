"""Which rows of a data set are known to be planted: those that name a control beside their kind, as the demo's do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..records.training_row import PlantedRow
from .row_files import originals
from .row_store import TrainingRows


def planted_rows(rows: TrainingRows) -> list[PlantedRow]:
    """Those of `rows`, in order, with a ``kind`` and a ``control``, the id of a matched row; ``behaviour`` may say what
    they are about. Training and judging see no such column. Empty where the data have none. Raises `ConfigError` as
    `row_files.originals`."""
    found: list[tuple[int, Mapping[str, Any]]] = []
    kept = ((row_id, raw) for _, row_id, raw in originals(rows) if row_id is not None)
    for place, (_, raw) in enumerate(kept):
        if isinstance(raw, Mapping) and raw.get("kind") is not None and raw.get("control") is not None:
            found.append((place, raw))
    # Of a million rows no more than these ids are held.
    controls = {str(raw["control"]) for _, raw in found}
    place_of = {row_id: place for place, row_id in enumerate(rows.data["id"]) if row_id in controls} if found else {}
    return [
        PlantedRow(
            place,
            place_of.get(str(raw["control"]), -1),
            str(raw["kind"]),
            None if raw.get("behaviour") is None else str(raw["behaviour"]),
        )
        for place, raw in found
    ]
