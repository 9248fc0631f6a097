"""Scores for a page: the leading ones whole, an even part of the others, all of them as numbers."""

from __future__ import annotations

import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from smda_monitor.errors import ConfigError
from smda_monitor.outputs.score_table import COLUMNS, LEADING, SPREAD, read_score_table


def write(path: Path, scores: list[float | None]) -> None:
    line = {"row_id": "a", "row_hash": "b", "S": 0.3, "S_X": 0.1, "S_Y": 0.2, "further": 1}
    table = pa.Table.from_pylist([{**line, "line": i, "score": score} for i, score in enumerate(scores)])
    pq.write_table(table, path)


@pytest.mark.parametrize(
    ("rows", "every"), [(3, 1), (LEADING, 1), (LEADING + SPREAD, 1), (LEADING + SPREAD + 1, 2), (9999, 6)]
)
def test_no_row_is_lost_to_the_numbers(tmp_path: Path, rows: int, every: int) -> None:
    write(tmp_path / "scores.parquet", [float(rows - i) for i in range(rows - 1)] + [None])
    found = read_score_table(tmp_path / "scores.parquet")
    assert (found.rows, found.unscored, found.every) == (rows, 1, every)
    assert found.known.tolist() == [float(i) for i in range(2, rows + 1)]
    assert [line["line"] for line in found.leading] == list(range(min(rows, LEADING)))
    assert [line["line"] for line in found.spread] == list(range(LEADING, rows, every))
    assert len(found.spread) <= SPREAD
    assert tuple(found.leading[0]) == COLUMNS
    assert math.isnan(found.leading[-1]["score"]) == (rows <= LEADING)


def test_what_is_not_there_is_empty_and_what_is_none_of_scores_is_named(tmp_path: Path) -> None:
    assert read_score_table(tmp_path / "scores.parquet").rows == 0
    pq.write_table(pa.table({"score": [1.0]}), tmp_path / "scores.parquet")
    with pytest.raises(ConfigError, match=r"scores\.parquet: found no column 'row_id'"):
        read_score_table(tmp_path / "scores.parquet")
