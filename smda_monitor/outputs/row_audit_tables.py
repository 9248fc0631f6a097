"""Judged rows on disk: Parquet parts by the rows' numbers, so that a killed audit goes on where it stopped.

``judged-000001-000032.parquet`` holds rows 1 to 32 of the data set, by the rules of `tables`: the row's entry and,
beside it, the fields of `RowAudit` (``watched`` as ``watched_shifts``: the entry has a column of the other name).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import ConfigError, describe
from ..records.account import FeatureShift
from ..records.row_audit import RowAudit
from . import parts
from .files import write_atomic
from .tables import feature_column, rows_to_table, scalar_columns, table_to_rows

STEM = "judged"
_SCALARS = (
    ("line", "int"),
    ("refit_remainder", "float"),
    ("seconds", "float"),
    ("watched_interference", "float"),
    ("watched_dominant", "int"),
)


def write_judged(folder: Path, first: int, judged: Sequence[RowAudit]) -> None:
    """Writes the rows numbered from `first` (from 1) as one part, atomically."""
    parts.write_part(folder, STEM, first, first + len(judged) - 1, judged_to_table(judged))


def judged_numbers(folder: Path) -> set[int]:
    """The numbers of the rows that are there."""
    return {number for part in parts.live_parts(folder, STEM) for number in range(part.first, part.last + 1)}


def read_judged(folder: Path) -> Iterator[RowAudit]:
    """All rows that are there, in order, a part at a time. Raises `ConfigError` naming a corrupt part."""
    for part in parts.live_parts(folder, STEM):
        try:
            yield from table_to_judged(parts.read_part(part.path))
        except (KeyError, TypeError) as error:
            remedy = "restore it from a copy, or delete it and resume the audit"
            expected = "what the audit writes there"
            raise ConfigError(describe(str(part.path), f"no column {error}", expected, remedy)) from error


def judged_to_table(judged: Sequence[RowAudit]) -> Any:
    """One line per row."""
    import pyarrow as pa

    table = rows_to_table([one.entry for one in judged])
    columns = {
        **scalar_columns(judged, _SCALARS),
        "features": feature_column([one.features for one in judged]),
        "watched_shifts": feature_column([one.watched for one in judged]),
        "intended": pa.array([list(one.intended) for one in judged], pa.list_(pa.int64())),
    }
    for name, column in columns.items():
        table = table.append_column(name, column)
    return table


def table_to_judged(table: Any) -> list[RowAudit]:
    """The inverse of `judged_to_table`. Raises `KeyError` where a column is missing."""
    return [
        RowAudit(
            **{name: line[name] for name, _ in _SCALARS},
            entry=entry,
            features=tuple(FeatureShift(**feature) for feature in line["features"]),
            watched=tuple(FeatureShift(**feature) for feature in line["watched_shifts"]),
            intended=tuple(line["intended"]),
        )
        for entry, line in zip(table_to_rows(table), table.to_pylist(), strict=True)
    ]


def write_scores(path: Path, judged: Sequence[RowAudit], scores: Sequence[float]) -> None:
    """One line per row: its names, ``score`` and the pair score with its pathways; the most suspicious first, rows
    without a score last."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = [("line", "int"), ("S", "float"), ("S_X", "float"), ("S_Y", "float")]
    texts = {name: pa.array([getattr(one.entry, name) for one in judged]) for name in ("row_id", "row_hash")}
    table = pa.table({**texts, "score": pa.array(scores, pa.float64(), from_pandas=True)})
    for name, column in scalar_columns(judged, names).items():
        table = table.append_column(name, column)
    ordered = table.sort_by([("score", "descending")])
    write_atomic(path, lambda temporary: pq.write_table(ordered, temporary, compression="zstd"))


def read_scores(path: Path, count: int) -> list[dict[str, Any]]:
    """The first `count` lines that `write_scores` wrote; NaN where a row has no score."""
    import pyarrow.parquet as pq

    lines: list[dict[str, Any]] = pq.read_table(path).slice(0, count).to_pylist()
    return [{**line, "score": float("nan") if line["score"] is None else line["score"]} for line in lines]
