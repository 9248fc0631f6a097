"""Rows of an audit by group on disk: read from the judged parts as they were, and back from what was written."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from synthetic_audit import COEF, FEATURES, ROWS, make_rows, write_audit

from smda_monitor.errors import ConfigError
from smda_monitor.outputs.row_audit_tables import read_judged, write_judged
from smda_monitor.outputs.row_kinds_files import read_row_kinds, read_watched, summarise, write_row_kinds
from smda_monitor.records.row_audit import RowAudit


def unread(row: RowAudit) -> RowAudit:
    return replace(row, watched_interference=math.nan, intended=(), entry=replace(row.entry, expected=math.nan))


def test_watched_rows_are_the_judged_ones_whose_prompts_were_read(tmp_path: Path) -> None:
    rows = [unread(row) if i % 7 == 3 else row for i, row in enumerate(make_rows())]
    for first in range(0, ROWS, 16):
        write_judged(tmp_path, first + 1, rows[first : first + 16])
    found, read = read_watched(tmp_path), [row for row in rows if row.watched_interference == row.watched_interference]
    assert found is not None
    assert len(read) < ROWS
    assert found.lines == tuple(row.line for row in read)
    assert (found.features, found.coef.tolist()) == (FEATURES, list(COEF))
    for name in ("shift_X", "shift_Y"):
        expected = [[getattr(one, name) for one in row.watched] for row in read]
        assert getattr(found, name).tolist() == expected
    assert found.expected.tolist() == [row.entry.expected for row in read]
    assert found.intended.tolist() == [[feature in row.intended for feature in FEATURES] for row in read]
    assert found.unintended.tolist() == [row.dominant_unintended for row in read]
    assert found.unintended.dtype == torch.bool
    assert repr(list(read_judged(tmp_path))) == repr(rows), "parts keep every figure, NaN and all"


def test_nothing_read_is_nothing_to_compare(tmp_path: Path) -> None:
    assert read_watched(tmp_path) is None
    write_judged(tmp_path, 1, [unread(row) for row in make_rows()[:5]])
    assert read_watched(tmp_path) is None
    assert summarise(None) == {"harmful_vs_harmless": None, "kinds": None}
    assert read_row_kinds(tmp_path) is None


def test_what_is_written_comes_back_with_a_name_that_is_no_text(tmp_path: Path) -> None:
    write_audit(tmp_path / "audit")
    found = read_row_kinds(tmp_path / "audit")
    assert found is not None
    odd = replace(found, kinds=(replace(found.kinds[0], kind="lone \ud800 surrogate"), *found.kinds[1:]))
    write_row_kinds(tmp_path, odd)
    assert repr(read_row_kinds(tmp_path)) == repr(odd)
    assert "kind.lone ? surrogate" in pq.read_table(tmp_path / "interference.parquet").column_names
    (first, *_) = summarise(found)["kinds"].values()
    assert first["rows"] == found.kinds[0].rows


def test_a_part_of_an_older_audit_is_named(tmp_path: Path) -> None:
    write_judged(tmp_path, 1, make_rows()[:5])
    (path,) = tmp_path.iterdir()
    pq.write_table(pq.read_table(path).drop_columns(["intended"]), path)
    with pytest.raises(ConfigError, match=r"judged-000001-000005\.parquet: found no column 'intended'|no column"):
        read_watched(tmp_path)
    pq.write_table(pq.read_table(path).drop_columns(["watched_shifts"]), path)
    with pytest.raises(ConfigError, match="delete it and resume the audit"):
        read_watched(tmp_path)
