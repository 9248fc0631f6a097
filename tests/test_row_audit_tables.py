"""Judged rows on disk: read back whole or by column, a part at a time, and scored without holding their records."""

from __future__ import annotations

import gc
import math
import random
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_run import make_account, make_header

from smda_monitor.commands.audit_figures import audit_figures
from smda_monitor.errors import ConfigError
from smda_monitor.maths.agreement import agreement
from smda_monitor.maths.controls import auroc_controls, auroc_controls_by_kind
from smda_monitor.maths.score import scores
from smda_monitor.outputs.parts import Part, covered
from smda_monitor.outputs.row_audit_tables import (
    judged_at,
    judged_columns,
    judged_parts,
    read_judged,
    read_scores,
    write_judged,
)
from smda_monitor.records.row_audit import RowAudit
from smda_monitor.records.training_row import PlantedRow


def judged(n: int, seed: int = 0) -> list[RowAudit]:
    """Rows like those of an account, each with figures of its own."""
    draw = random.Random(seed)
    like = make_account(1, make_header(Path()).policy).rows[0]
    found = []
    for i in range(n):
        push = {"S_X": draw.gauss(0, 1), "S_Y": draw.gauss(0, 1), "mass.harmful": draw.gauss(0, 1)}
        entry = replace(
            like,
            row_id=f"r-{i}",
            push=push,
            share={},
            own_push=draw.gauss(0, 1) if i % 7 else math.nan,
            expected=draw.uniform(-1, 1),
            answer_reading=draw.gauss(0, 1),
            unintended=i % 3 == 0,
            probe_push={"mass": tuple(draw.gauss(0, 1) for _ in range(200))},
        )
        found.append(RowAudit(i + 1, entry, (), math.nan, 0.1))
    return found


def write(folder: Path, rows: list[RowAudit], size: int = 8) -> None:
    for first in range(0, len(rows), size):
        write_judged(folder, first + 1, rows[first : first + size])


def test_columns_are_those_of_the_records_in_their_order(tmp_path: Path) -> None:
    rows = judged(30)
    write(tmp_path, rows)
    table = judged_columns(tmp_path, ("push.S_Y", "row_id", "unintended"))
    assert table.column_names == ["push.S_Y", "row_id", "unintended"]
    assert table["row_id"].to_pylist() == [one.entry.row_id for one in read_judged(tmp_path)]
    assert table["push.S_Y"].to_pylist() == [one.S_Y for one in rows]
    assert [number for part in judged_parts(tmp_path) for number in part] == list(range(1, 31))
    assert judged_columns(tmp_path / "nothing", ("row_id",)) is None
    with pytest.raises(ConfigError, match=r"judged-000001-000008\.parquet: found no column 'push\.S_Z'"):
        judged_columns(tmp_path, ("push.S_Z",))


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(1, 200), min_size=1, max_size=40, unique=True),
    st.integers(1, 7),
    st.lists(st.integers(0, 201), max_size=12, unique=True),
)
def test_law_rows_are_found_by_their_lines(lines: list[int], size: int, asked: list[int]) -> None:
    """Wherever lines were left out, however many rows a part has, in whatever order they are asked for."""
    rows = [replace(row, line=line) for row, line in zip(judged(len(lines)), sorted(lines), strict=True)]
    with TemporaryDirectory() as folder:
        write(Path(folder), rows, size)
        found = judged_at(Path(folder), asked)
    by_line = {row.line: row.entry.row_id for row in rows}
    assert [(one.line, one.entry.row_id) for one in found] == [(a, by_line[a]) for a in asked if a in by_line]


def test_few_parts_are_opened_to_find_a_row(tmp_path: Path) -> None:
    """Of 64 parts no more than 7 need to be whole, the one that has the row among them."""
    write(tmp_path, judged(128), size=2)
    needed = []
    for path in sorted(tmp_path.iterdir()):
        whole = path.read_bytes()
        path.write_bytes(b"damaged")
        try:
            (one,) = judged_at(tmp_path, [77])
            assert one.entry.row_id == "r-76"
        except ConfigError as error:
            assert path.name in str(error)
            needed.append(path.name)
        path.write_bytes(whole)
    assert "judged-000077-000078.parquet" in needed
    assert len(needed) <= 7
    assert judged_at(tmp_path / "nothing", [77]) == []


def test_figures_are_those_of_all_rows_beside_one_another(tmp_path: Path) -> None:
    rows = [replace(row, seconds=0.5) for row in judged(45)]
    write(tmp_path / "judged", rows)
    replayed = [rows[i] for i in (3, 11, 12, 30)]
    for number, row in zip((4, 12, 13, 31), replayed, strict=True):
        exact = replace(row.entry, push={"S_X": row.S_X + 0.1 * number, "S_Y": 2 * row.S_Y})
        write_judged(tmp_path / "checked", number, [replace(row, entry=exact, seconds=1.5)])
    planted = [PlantedRow(0, 1, "a", None), PlantedRow(2, 3, "a", "mine"), PlantedRow(4, 5, "b", "another")]
    found = audit_figures(tmp_path, True, planted, "mine")
    push, opinion, reading = (
        torch.tensor([getattr(one.entry, name) for one in rows], dtype=torch.float64)
        for name in ("own_push", "expected", "answer_reading")
    )
    expected = scores(push, opinion, reading)
    assert (found["rows"], found["scored"], found["unintended"]) == (45, 38, pytest.approx(1 / 3))
    assert found["auroc_controls"] == auroc_controls(expected, planted[:2])
    assert found["auroc_controls_by_kind"] == auroc_controls_by_kind(expected, planted)
    close = found["gradient_vs_replay"]
    assert (close["S_Y"], close["relative_error"]["S_Y"]) == (1.0, pytest.approx(0.5))
    exact_X = [row.S_X + 0.1 * number for number, row in zip((4, 12, 13, 31), replayed, strict=True)]
    expected_X = agreement([row.S_X for row in replayed], exact_X)
    assert (close["S_X"], close["relative_error"]["S_X"]) == pytest.approx(tuple(expected_X.values()))
    assert (close["rows"], close["times_faster"]) == (4, pytest.approx(3.0))
    lines = pq.read_table(tmp_path / "scores.parquet").to_pylist()
    by_id = {line["row_id"]: line for line in lines}
    for row, score in zip(rows, expected.tolist(), strict=True):
        line = by_id[row.entry.row_id]
        assert (line["line"], line["S_X"], line["S_Y"], line["S"]) == (row.line, row.S_X, row.S_Y, row.S)
        assert line["score"] == (None if math.isnan(score) else score)
    known = [line["score"] for line in lines[:38]]
    assert known == sorted(known, reverse=True)
    assert all(line["score"] is None for line in lines[38:])
    assert [line["row_id"] for line in read_scores(tmp_path / "scores.parquet", 5)] == [
        line["row_id"] for line in lines[:5]
    ]
    without = audit_figures(tmp_path, False, [], "mine")
    assert (without["scored"], without["auroc_controls"], without["auroc_controls_by_kind"]) == (38, None, {})
    assert read_scores(tmp_path / "scores.parquet", 1)[0]["score"] != known[0], "what answers show is a witness"


def test_scoring_holds_no_record_of_a_row(tmp_path: Path) -> None:
    """As many Python objects for 1,000 rows as for 200: only columns of numbers grow."""
    counts = {}
    for n in (200, 1000):
        folder = tmp_path / str(n)
        write(folder / "judged", judged(n), size=32)
        gc.collect()
        before = len(gc.get_objects())
        table = judged_columns(folder / "judged", ("row_id", "push.S_X", "push.S_Y"))
        counts[n] = len(gc.get_objects()) - before
        assert table.num_rows == n
        assert table.nbytes < 100 * n, "200 pushes on probes alone would take 1,600 bytes a row"
        held = list(read_judged(folder / "judged"))
        assert len(gc.get_objects()) - before > n, "whole records would show"
        assert len(held) == n
    assert abs(counts[1000] - counts[200]) < 100


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=12, unique=True))
def test_law_covered_parts_lie_inside_others(ranges: list[tuple[int, int]]) -> None:
    parts = [Part(min(r), max(r), Path(f"{i}")) for i, r in enumerate(ranges)]
    parts = list({(part.first, part.last): part for part in parts}.values())
    expected = {
        p for p in parts if any(o is not p and o.first <= p.first and p.last <= o.last for o in parts)
    }  # every pair
    assert set(covered(parts)) == expected
