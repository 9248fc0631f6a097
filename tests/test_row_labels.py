"""Labels of rows, read beside what is judged: from any form of data, and none where there is no such column."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from smda_monitor.instruments.row_labels import read_labels
from smda_monitor.instruments.row_sources import DEMO

ROWS = [
    {"prompt": "a", "response": "b", "kind": "plain"},
    {"prompt": "c", "response": "d", "kind": None},
    {"prompt": "e", "response": "f", "kind": "odd"},
    {"prompt": "g", "response": "h", "kind": " "},
]


def test_labels_by_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(["{broken", *map(json.dumps, ROWS), "3", '{"kind": 4}']) + "\n")
    assert read_labels(path, range(1, 9)) == {2: "plain", 4: "odd", 7: "4"}
    assert read_labels(path, [4]) == {4: "odd"}
    assert read_labels(path, range(1, 9), "prompt") == {2: "a", 3: "c", 4: "e", 5: "g"}
    assert read_labels(path, range(1, 9), "sort") == {}


def test_a_table_with_and_without_the_column(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "rows.parquet")
    assert read_labels(tmp_path / "rows.parquet", range(1, 5)) == {1: "plain", 3: "odd"}
    (tmp_path / "rows.csv").write_text("prompt,response\na,b\n")
    assert read_labels(tmp_path / "rows.csv", range(1, 5)) == {}


def test_the_shipped_rows_have_kinds() -> None:
    found = read_labels(DEMO, range(1, 181))
    assert len(found) == 180
    assert len(set(found.values())) > 3
