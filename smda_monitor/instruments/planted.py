"""Which rows of a data set are known to be planted: those that name a control beside their kind, as the demo's do."""

from __future__ import annotations

from collections.abc import Mapping

from ..records.training_row import PlantedRow
from .row_files import originals
from .row_store import TrainingRows


def planted_rows(rows: TrainingRows) -> list[PlantedRow]:
    """Those of `rows`, in order, with a ``kind`` and a ``control``, the id of a matched row; ``behaviour`` may say what
    they are about. Training and judging see no such column. Empty where the data have none. Raises `ConfigError` as
    `row_files.originals`."""
    place_of: dict[str, int] = {}
    found = []
    for _, row_id, raw in originals(rows):
        if row_id is None:
            continue
        if isinstance(raw, Mapping) and raw.get("kind") is not None and raw.get("control") is not None:
            found.append((len(place_of), raw))
        place_of[row_id] = len(place_of)
    return [
        PlantedRow(
            place,
            place_of.get(str(raw["control"]), -1),
            str(raw["kind"]),
            None if raw.get("behaviour") is None else str(raw["behaviour"]),
        )
        for place, raw in found
    ]
