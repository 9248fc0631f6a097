"""Labels of rows, read beside what is judged: from any form of data, and none where there is no such column."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from audit_home import write_lines

from smda_monitor.instruments.row_files import read_rows
from smda_monitor.instruments.row_labels import row_labels
from smda_monitor.instruments.row_sources import DEMO

ROWS: list[Any] = [
    {"prompt": "a", "response": "b", "kind": "plain"},
    {"prompt": "c", "response": "d", "kind": None},
    {"prompt": "e", "response": "f", "kind": "odd"},
    {"prompt": "g", "response": "h", "kind": " "},
]


def test_labels_by_line_of_the_rows_that_are_kept(tmp_path: Path) -> None:
    write_lines(
        tmp_path / "rows.jsonl", ["{broken", *ROWS, "3", {"kind": "not kept"}, {**ROWS[0], "kind": 4, "id": "z"}]
    )
    rows = read_rows(tmp_path / "rows.jsonl", tmp_path / "kept")
    assert row_labels(rows) == {2: "plain", 4: "odd", 8: "4"}


def test_a_table_with_and_without_the_column(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "rows.parquet")
    assert row_labels(read_rows(tmp_path / "rows.parquet", tmp_path / "a")) == {1: "plain", 3: "odd"}
    (tmp_path / "rows.csv").write_text("prompt,response\na,b\n")
    assert row_labels(read_rows(tmp_path / "rows.csv", tmp_path / "b")) == {}


def test_the_shipped_rows_have_kinds(tmp_path: Path) -> None:
    found = row_labels(read_rows(DEMO, tmp_path))
    assert len(found) == 180
    assert len(set(found.values())) > 3
