"""Judged rows on disk: Parquet parts by the rows' numbers, so that a killed audit goes on where it stopped.

``judged-000001-000032.parquet`` holds rows 1 to 32 of the data set, by the rules of `tables`: the row's entry and,
beside it, the fields of `RowAudit` (``watched`` as ``watched_shifts``: the entry has a column of the other name).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import ConfigError, describe
from ..records.account import FeatureShift
from ..records.row_audit import RowAudit
from . import parts
from .files import write_atomic
from .tables import feature_column, rows_to_table, scalar_columns, table_to_rows

STEM = "judged"
SCORED = ("row_id", "row_hash", "line", "push.S_X", "push.S_Y")
"""Columns that a line of the scores is made of."""
_ROW_GROUP = 1 << 16
"""Scores that are read together: the first few do not need all."""
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


def judged_parts(folder: Path) -> list[range]:
    """The numbers of the rows that are there, from 1, a range for each part."""
    return [range(part.first, part.last + 1) for part in parts.live_parts(folder, STEM)]


def read_judged(folder: Path) -> Iterator[RowAudit]:
    """All rows that are there, in order, a part at a time. Raises `ConfigError` naming a corrupt part."""
    for part in parts.live_parts(folder, STEM):
        with _named(part.path):
            yield from table_to_judged(parts.read_part(part.path))


def judged_at(folder: Path, lines: Sequence[int]) -> list[RowAudit]:
    """The judged rows at `lines` of the data, in that order; those that are not there are left out.

    Rows are numbered in the order of their lines, so that a line is looked for by halving: of P parts about log₂ P are
    opened for it, for their lines alone, and the one that can have it is read. Raises `ConfigError` as `read_judged`.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    live = parts.live_parts(folder, STEM)

    @cache
    def first_line(place: int) -> int:
        with _named(live[place].path):
            return int(parts.read_part(live[place].path, ["line"])["line"][0].as_py())

    wanted: dict[int, list[int]] = {}
    for line in lines:
        place = bisect_right(range(len(live)), line, key=first_line) - 1
        if place >= 0:
            wanted.setdefault(place, []).append(line)
    found: dict[int, RowAudit] = {}
    for place, there in wanted.items():
        with _named(live[place].path):
            table = parts.read_part(live[place].path)
            found |= {one.line: one for one in table_to_judged(table.filter(pc.is_in(table["line"], pa.array(there))))}
    return [found[line] for line in lines if line in found]


def column_parts(folder: Path, columns: Sequence[str]) -> Iterator[Any]:
    """An Arrow table of some `columns` for each part, in order. Raises `ConfigError` as `read_judged`."""
    for part in parts.live_parts(folder, STEM):
        with _named(part.path):
            table = parts.read_part(part.path, columns)
        yield table


def judged_columns(folder: Path, columns: Sequence[str]) -> Any:
    """The Arrow table of some `columns` of all rows that are there, in order; None where there is none. A row's whole
    record takes kilobytes, so that of a million rows only what is asked for fits into memory. Raises as
    `column_parts`."""
    table = parts.concatenate(list(column_parts(folder, columns)))
    return table if table is None else table.combine_chunks()


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """A column that is missing inside becomes an error that names the part."""
    try:
        yield
    except (KeyError, TypeError) as error:
        remedy = "restore it from a copy, or delete it and resume the audit"
        expected = "what the audit writes there"
        raise ConfigError(describe(str(path), f"no column {error}", expected, remedy)) from error


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


def write_scores(path: Path, judged: Any, scores: Tensor) -> None:
    """One line per row of the table `judged`, which has the columns `SCORED`: its names, ``score`` and the pair score S
    with its pathways; the most suspicious first, rows without a score (NaN in `scores`, (n,)) last."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    S_X, S_Y = judged["push.S_X"], judged["push.S_Y"]
    columns = {name: judged[name] for name in ("row_id", "row_hash")}
    columns["score"] = pa.array(scores.numpy(), pa.float64(), from_pandas=True)
    columns |= {"line": judged["line"], "S": pc.add(S_X, S_Y), "S_X": S_X, "S_Y": S_Y}
    ordered = pa.table(columns).sort_by([("score", "descending")])
    options = {"compression": "zstd", "row_group_size": _ROW_GROUP}
    write_atomic(path, lambda temporary: pq.write_table(ordered, temporary, **options))


def read_scores(path: Path, count: int) -> list[dict[str, Any]]:
    """The first `count` lines that `write_scores` wrote; NaN where a row has no score."""
    import pyarrow.parquet as pq

    with path.open("rb") as handle:
        batches = pq.ParquetFile(handle).iter_batches(batch_size=count)
        lines: list[dict[str, Any]] = next(batches).to_pylist()
    return [{**line, "score": float("nan") if line["score"] is None else line["score"]} for line in lines]
