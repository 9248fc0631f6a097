"""`smda curate` from the command line on a finished audit of a tiny model: written, read again, refused."""

from __future__ import annotations

import json
import shutil
from math import inf, nan
from pathlib import Path
from typing import Any

import audited
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from smda_monitor.cli import main
from smda_monitor.instruments.row_files import read_rows
from smda_monitor.maths.curation import opposed
from smda_monitor.outputs.curation_files import read_curation
from smda_monitor.outputs.curation_reasons import reasons
from smda_monitor.outputs.curation_report import cut_lines
from smda_monitor.outputs.finished_audit import read_audit, read_figures
from smda_monitor.records.curation import BUCKETS, MedianCut, RowFigures, ScoreCut

JUDGED = audited.ROWS - len(audited.LEFT_OUT)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = audited.write_home(tmp_path_factory.mktemp("curate"))
    audited.audit(folder)
    return folder


@pytest.fixture
def run(home: Path, tmp_path: Path) -> Path:
    """A copy of the audit, to be changed."""
    return Path(shutil.copytree(home / "audit", tmp_path / "audit"))


def with_scores(run: Path, high: dict[str, float]) -> None:
    """Gives the rows named in `high` these scores, and all others some between −1 and 1."""
    path = run / "scores.parquet"
    rows = pq.read_table(path).to_pylist()
    for i, row in enumerate(rows):
        row["score"] = high.get(row["row_id"], 2 * (i / len(rows)) - 1)
    pq.write_table(pa.Table.from_pylist(sorted(rows, key=lambda row: -row["score"])), path)


def curated(folder: Path) -> dict[str, list[dict[str, Any]]]:
    return {bucket: audited.lines_of(folder / f"{bucket}.jsonl") for bucket in BUCKETS}


def test_every_row_goes_to_one_file_with_its_own_columns(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = {one.row_id: one for one in read_figures(read_audit(run))}
    with_scores(run, {f"mine-{i}": 90.0 + 10 * i for i in range(12, 24)})
    assert main(["curate", str(run), "--json", str(run / "figures.json")]) == 0
    shown = capsys.readouterr().out
    found = curated(run / "curation")
    written = {row["id"]: row for rows in found.values() for row in rows if row["id"] is not None}
    assert sorted(row["line"] for rows in found.values() for row in rows) == list(range(1, audited.ROWS + 1))
    for original in audited.rows():
        if original["id"] != "mine-3" and original["id"] != "mine-7":
            assert original.items() <= written[original["id"]].items()
    flagged = [figures[f"mine-{i}"] for i in range(12, 24)]
    against = {one.row_id for one in flagged if _against(one)}
    assert {row["id"] for row in found["remove"]} == against
    assert {one.row_id for one in flagged} - against <= {row["id"] for row in found["review"]}
    for row in found["remove"]:
        assert f"rank {24 - int(row['id'][5:])} of {JUDGED} by that" in row["reasons"][0]
        assert ", flagged at a false-discovery rate of 0.1" in row["reasons"][0]
        assert any("against that" in why for why in row["reasons"])
    head, removed = read_curation(run / "curation")
    assert set(removed) == against
    assert head == json.loads((run / "figures.json").read_text())
    assert head["rows"] == {bucket: len(rows) for bucket, rows in found.items()}
    assert 200 < head["threshold"] < 220, "210, less what is usual"
    assert f"{head['rows']['remove']} remove" in shown
    assert not [path for path in (run / "curation").iterdir() if path.name.startswith(".")], "nothing is left behind"


def _against(one: RowFigures) -> bool:
    import torch

    figures = (one.expected, one.own_push, one.answer_reading)
    return bool(opposed(*(torch.tensor([x], dtype=torch.float64) for x in figures))[0])


def test_the_audits_page_shows_the_curation(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = run / "report.html"
    assert "Curation:" not in page.read_text()
    assert main(["curate", str(run)]) == 0
    assert f"report: {page}" in capsys.readouterr().out
    counts = read_curation(run / "curation")[0]["rows"]
    said = f"Curation: {counts['remove']} rows to remove, {counts['review']} to review."
    assert said in page.read_text()
    assert "did not judge this row: no JSON" in page.read_text()
    assert main(["curate", str(run), "--rule", "median", "--out", str(run / "elsewhere")]) == 0
    assert f"nothing of {run / 'elsewhere'}" in capsys.readouterr().out
    assert said in page.read_text(), "the page shows what lies in its own folder"


def test_a_page_that_cannot_be_written_loses_nothing(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "report.html").unlink()
    (run / "report.html").mkdir()
    assert main(["curate", str(run), "--json", str(run / "figures.json")]) == 0
    shown = capsys.readouterr()
    assert "report: NOT written" in shown.err
    assert "The rows' bulk lies at" in shown.out
    assert read_curation(run / "curation")[0] == json.loads((run / "figures.json").read_text())


def test_rows_that_were_left_out_are_to_be_reviewed(run: Path) -> None:
    assert main(["curate", str(run)]) == 0
    left = {row["line"]: row for row in curated(run / "curation")["review"] if row["line"] in audited.LEFT_OUT}
    broken, long = (left[line] for line in audited.LEFT_OUT)
    assert broken["id"] is None
    assert "did not judge this row: no JSON" in broken["reasons"][0]
    assert long["response"].startswith("word word")
    assert "more than the 64 of max_length" in long["reasons"][0]


def test_what_is_kept_can_be_trained_on(run: Path, tmp_path: Path) -> None:
    assert main(["curate", str(run)]) == 0
    rows = read_rows(run / "curation" / "keep.jsonl", tmp_path / "rows")
    assert len(rows) == len(audited.lines_of(run / "curation" / "keep.jsonl"))
    assert set(rows.data["id"]) <= {row["id"] for row in audited.rows()}


def test_the_median_rule_and_another_rate(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = run / "elsewhere"
    assert main(["curate", str(run), "--rule", "median", "--out", str(out)]) == 0
    assert "Median rule" in capsys.readouterr().out
    head, removed = read_curation(out)
    figures = read_figures(read_audit(run))
    sorts = [[one.S for one in figures if (one.expected > 0) == harmful] for harmful in (True, False)]
    if not all(sorts):
        assert removed == []
    assert head["rule"] == "median"
    assert head["audit"] == read_audit(run).identity
    with_scores(run, {"mine-20": 4.0})
    assert main(["curate", str(run), "--fdr", "0.9"]) == 0
    assert len(curated(run / "curation")["remove"]) + len(curated(run / "curation")["review"]) > 3
    first = (run / "curation" / "keep.jsonl").read_bytes()
    assert main(["curate", str(run), "--fdr", "0.9"]) == 0, "an earlier curation is replaced"
    assert (run / "curation" / "keep.jsonl").read_bytes() == first


def test_what_is_no_finished_audit_is_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(words: list[str], *expected: str) -> None:
        assert main(["curate", *words]) == 2
        error = capsys.readouterr().err
        assert all(part in error for part in expected), error

    refused([str(tmp_path / "none")], "no such folder", "run `smda audit` first")
    (tmp_path / "empty").mkdir()
    refused([str(tmp_path / "empty")], "a folder without manifest.json")
    (tmp_path / "empty" / "refusal").mkdir()
    (tmp_path / "empty" / "refusal" / "manifest.json").write_text("{}")
    refused([str(tmp_path / "empty")], "name one in it: refusal")
    refused([str(run), "--fdr", "1.5"], "false-discovery rate: found 1.5")
    refused([str(run), "--out", str(run)], "other files", "name another folder")
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps({**manifest, "status": "running"}))
    refused([str(run)], "an audit that was stopped", "--resume")
    (run / "manifest.json").write_text(json.dumps({**manifest, "kind": "proof"}))
    refused([str(run)], "the folder of another command")
    (tmp_path / "empty" / "manifest.json").write_text(json.dumps({"kind": "audits"}))
    refused([str(tmp_path / "empty")], "audits of several behaviours", "name one in it: refusal")
    (run / "manifest.json").write_text(json.dumps({key: manifest[key] for key in manifest if key != "rows"}))
    refused([str(run)], "a manifest without 'rows'")
    (run / "manifest.json").write_text(json.dumps(manifest))
    scores = pq.read_table(run / "scores.parquet")
    pq.write_table(scores.slice(1), run / "scores.parquet")
    refused([str(run)], f"{JUDGED} judged rows and {JUDGED - 1} scores")
    (run / "scores.parquet").write_bytes(b"PAR1")
    refused([str(run)], "no scores.parquet that can be read")
    refused([str(run), "--json", str(tmp_path)], "--json", "a folder")


def test_other_data_than_were_audited_are_refused(home: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = home / "rows.jsonl"
    before = rows.read_text()
    try:
        rows.write_text(before.replace("Yes, here it is 81", "Yes, here it is 82"))
        assert main(["curate", str(run)]) == 2
        assert "other rows than were audited" in capsys.readouterr().err
        assert not (run / "curation" / "curation.json").exists()
    finally:
        rows.write_text(before)


ROW = RowFigures("a", 3, 1.5, -0.02, -0.01, -0.4, -0.9, 0.8, 0.75, 17, True)
CUT = ScoreCut(0.1, -0.5, 0.4, 1.2, 0.2, 0.9, 0.14)


def test_the_reasons_name_every_figure() -> None:
    found = reasons(ROW, "remove", CUT, 1.25, 2, 50, "refusal")
    assert found == (
        "Score +1.50, +1.25 over what is usual of such prompts, rank 2 of 50 by that: at or over +1.20, flagged at a "
        "false-discovery rate of 0.1.",
        "Its prompt calls for refusal: +0.800 of -1 to +1.",
        "A step on it pushes refusal on that prompt by -0.400 nats, against that.",
        "Its answer reads as -0.900 (+1 shows refusal, -1 not), against that.",
        "S -0.0300 (erodes the policy, against what its prompt calls for): S_X -0.0200, S_Y -0.0100.",
        "Interference 0.75: the part of its policy shift on features that its prompt does not call for, most of it on "
        "feature 17.",
    )
    assert reasons(ROW, "keep", CUT, 1.25, 2, 50, "refusal") == found[:1]
    looser = RowFigures("a", 3, 1.0, 0, 0, nan, nan, nan, nan, -1, False)
    assert "at the looser rate of 0.2 alone" in reasons(looser, "review", CUT, 1.0, 5, 50, "refusal")[0]
    assert len(reasons(looser, "review", CUT, 1.0, 5, 50, "refusal")) == 2, "what was not read is not spoken of"
    kept = RowFigures("a", 3, 0.1, 0, 0, nan, nan, nan, nan, -1, False)
    assert "flags rows from +1.20 on" in reasons(kept, "keep", CUT, 0.1, 30, 50, "refusal")[0]
    assert "No score" in reasons(kept, "review", CUT, nan, 0, 50, "refusal")[0]


def test_the_reasons_of_the_median_rule() -> None:
    cut = MedianCut(0.01, 0.02)
    assert reasons(ROW, "remove", cut, 1.0, 1, 9, "refusal")[0] == (
        "A harmful row by its prompt (+0.800 of -1 to +1), whose S -0.0300 is below +0.0200, the median of harmless "
        "rows."
    )
    harmless = RowFigures("b", 4, 1.0, 0.0, 0.0, nan, nan, -0.5, nan, -1, False)
    assert "is not above +0.0100, the median of harmful rows" in reasons(harmless, "keep", cut, 1.0, 1, 9, "refusal")[0]


def test_where_the_lines_are_drawn_in_words() -> None:
    assert cut_lines(CUT)[1] == (
        "At a false-discovery rate of 0.1 rows from +1.20 on are flagged; were the bulk symmetric, 0.14 of them would "
        "be chance."
    )
    nothing = ScoreCut(0.1, -0.5, 0.4, inf, 0.2, inf, nan)
    assert cut_lines(nothing)[1] == "No row stands out of it at a false-discovery rate of 0.1."
