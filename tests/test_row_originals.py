"""The rows as their source has them, found again beside those that were kept; and which of them are planted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_row_files import jsonl, read

from smda_monitor.errors import ConfigError
from smda_monitor.instruments.planted import planted_rows
from smda_monitor.instruments.row_choice import fitting, named_rows
from smda_monitor.instruments.row_files import originals, read_rows

ROWS: list[dict[str, Any]] = [
    {"id": "a", "prompt": "Why?", "response": "Because.", "kind": "odd", "control": "b", "note": [1, {"x": 2.5}]},
    {"id": "b", "prompt": "How?", "response": "Thus.", "kind": "plain", "control": None, "note": None},
    {"id": "c", "prompt": "Where?", "response": "", "kind": "odd", "control": "b", "note": None},
    {"id": "d", "prompt": "When?", "response": "Now, at once.", "kind": None, "control": "b", "note": None},
    {"id": "e", "prompt": "Who?", "response": "You.", "kind": "odd", "control": "b", "note": None},
]


def test_every_row_comes_back_with_all_its_columns(tmp_path: Path) -> None:
    found = list(originals(read(tmp_path, ROWS)))
    assert [(line, row_id) for line, row_id, _ in found] == [(1, "a"), (2, "b"), (3, None), (4, "d"), (5, "e")]
    assert [raw for _, _, raw in found] == ROWS


def test_of_a_table_too(tmp_path: Path) -> None:
    from datasets import Dataset

    given = [{key: row[key] for key in ("id", "prompt", "response", "kind", "control")} for row in ROWS]
    Dataset.from_list(given).to_parquet(tmp_path / "rows.parquet")
    found = list(originals(read_rows(tmp_path / "rows.parquet", tmp_path / "read")))
    assert [raw for _, _, raw in found] == given
    assert [row_id for _, row_id, _ in found] == ["a", "b", None, "d", "e"]


def test_a_line_that_is_no_json_comes_back_as_its_error(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("{broken\n" + json.dumps(ROWS[0]) + "\n")
    (_, first, error), (line, row_id, raw) = originals(read_rows(path, tmp_path / "read"))
    assert first is None
    assert isinstance(error, ValueError)
    assert (line, row_id, raw) == (2, "a", ROWS[0])


def test_a_source_that_changed_is_refused(tmp_path: Path) -> None:
    rows = read(tmp_path, ROWS)
    jsonl(tmp_path, [*ROWS[:3], {**ROWS[3], "response": "Later."}, ROWS[4]])
    with pytest.raises(ConfigError, match="line 4: found another row"):
        list(originals(rows))


def test_named_rows_are_those_that_other_reasons_left_whatever_the_way(tmp_path: Path) -> None:
    """Their fingerprint is one of contents: that of an audit's rows is found again from their ids alone."""
    rows = read(tmp_path, ROWS)
    audited = fitting(fitting(rows, lambda row: 9 * (row["id"] == "a"), 5), lambda row: 9 * (row["id"] == "d"), 5)
    again = named_rows(read(tmp_path, ROWS), {"b", "e"})
    assert again.data["id"] == audited.data["id"] == ["b", "e"]
    assert again.data._fingerprint == audited.data._fingerprint
    assert [one.reason for one in again.omitted()][1:] == ["not judged by the audit"] * 2
    other = named_rows(read(tmp_path, [*ROWS[:4], {**ROWS[4], "response": "Me."}]), {"b", "e"})
    assert other.data._fingerprint != audited.data._fingerprint
    whole = read(tmp_path, ROWS)
    assert named_rows(whole, set(whole.data["id"])) is whole


def test_planted_rows_name_a_control_beside_their_kind(tmp_path: Path) -> None:
    rows = read(tmp_path, ROWS)
    assert [rows.data["id"][one.place] for one in planted_rows(rows)] == ["a", "e"]
    bare = read(tmp_path, [{key: row[key] for key in ("id", "prompt", "response")} for row in ROWS])
    assert planted_rows(bare) == []


def test_the_demos_planted_rows_are_found(tmp_path: Path) -> None:
    rows = read_rows("demo", tmp_path / "read")
    planted = planted_rows(rows)
    assert len(planted) == 30
    for one in planted:
        row, control = rows.data[one.place], rows.data[one.control]
        assert row["prompt"] == control["prompt"]
        assert row["completion"] != control["completion"]
        assert (one.behaviour == "stereotype") == (one.kind == "stereotype")
