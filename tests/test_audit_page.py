"""The page of an audit: every number as in the files, no picture without its numbers, hostile text inert."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from synthetic_audit import (
    CHECKED,
    CURATION,
    FEATURES,
    LEFT_OUT,
    PLANTED,
    PROOF,
    ROWS,
    make_rows,
    write_audit,
    write_curation,
    write_proof,
    write_texts,
)
from test_report import HOSTILE, Page, strings

from smda_monitor.cli import main
from smda_monitor.errors import ConfigError
from smda_monitor.outputs.report import write_report
from smda_monitor.records.row_audit import RowAudit


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("audits") / "audit"
    write_audit(home)
    return home


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    return Page(write_report(folder))


def flat(page: Page) -> str:
    return " ".join(page.text.split())


def check_tables(page: Page) -> None:
    """Every picture has a table on the page, the same as CSV and as JSON."""
    tables = {str(a["data-numbers"]) for t, a in page.elements if t == "table" and "data-numbers" in a}
    assert set(page.figures) <= tables
    for name in page.figures:
        lines, objects = page.numbers(name), json.loads(page.download(f"{name}.json"))
        assert len(lines) == len(objects) > 0
        assert list(lines[0]) == list(objects[0])


def test_no_picture_without_its_numbers(page: Page) -> None:
    expected = {"leading", "scores", "pathways", "contrast-x", "contrast-y", "kinds", "interference"}
    assert set(page.figures) == expected | {"replay-s-x", "replay-s-y", "replay-watched"}
    check_tables(page)
    assert "n/a" not in [cell["p"] for cell in page.numbers("contrast-x")]


def test_numbers_are_the_files(page: Page, folder: Path) -> None:
    scores = pq.read_table(folder / "scores.parquet").to_pylist()
    leading = page.numbers("leading")
    assert [line["row_id"] for line in leading] == [line["row_id"] for line in scores]
    for line, expected in zip(leading, scores, strict=True):
        for name in ("score", "S", "S_X", "S_Y"):
            assert line[name] == ("" if expected[name] is None else str(expected[name]))
    assert sum(int(line["rows"]) for line in page.numbers("scores")) == ROWS - 1
    assert len(page.numbers("pathways")) == ROWS
    kinds = json.loads((folder / "row_kinds.json").read_text())
    for pathway in "XY":
        expected = [one for one in kinds["contrasts"] if one["pathway"] == pathway]
        for line, one in zip(page.numbers(f"contrast-{pathway.lower()}"), expected, strict=True):
            assert float(line["U"]) == one["U"]
            assert float(line["harmful_median"]) == one["harmful"]["median"]
            assert float(line["harmless_q3"]) == one["harmless"]["q3"]
            assert float(line["p_adjusted"]) == one["p_adjusted"]
            assert float(line["rank_biserial"]) == pytest.approx(2 * one["auroc"] - 1)
    matrix = pq.read_table(folder / "interference.parquet").to_pylist()
    assert [int(line["feature"]) for line in page.numbers("interference")] == list(FEATURES)
    for line, expected in zip(page.numbers("interference"), matrix, strict=True):
        assert float(line[f"kind.{PLANTED}"]) == expected[f"kind.{PLANTED}"]
    rows = make_rows()
    for line, i in zip(page.numbers("replay-s-x"), CHECKED, strict=True):
        assert (line["row_id"], float(line["gradient"])) == (rows[i].entry.row_id, rows[i].S_X)
        assert float(line["replay"]) == pytest.approx(1.01 * rows[i].S_X)


def test_pictures_show_these_numbers(page: Page, folder: Path) -> None:
    harmful, harmless = page.figures["contrast-x"]["data"]
    lines = page.numbers("contrast-x")
    assert harmful["median"] == [float(line["harmful_median"]) for line in lines]
    assert (harmless["q1"], harmless["upperfence"]) == (
        [float(line["harmless_q1"]) for line in lines],
        [float(line["harmless_p95"]) for line in lines],
    )
    (heat,) = page.figures["interference"]["data"]
    column = [kind for kind in json.loads((folder / "row_kinds.json").read_text())["kinds"] if kind["kind"] == PLANTED]
    at = [i for i, name in enumerate(page.figures["interference"]["layout"]["xaxis"]["ticktext"]) if PLANTED in name]
    assert [line[at[0]] for line in heat["z"]] == column[0]["by_feature"]
    assert heat["z"][2][at[0]] > 0.5, "planted rows act on a feature that no prompt calls for"
    x, y = page.figures["leading"]["data"]
    assert x["x"][0] + y["x"][0] == pytest.approx(float(page.numbers("leading")[0]["S"]))


def test_it_says_what_was_found(page: Page) -> None:
    text = flat(page)
    assert f"{ROWS} rows judged, each by a training step of its own" in text
    assert "are mine-059, mine-049, mine-039, mine-029, mine-019." in text
    assert "The prompts of 20 rows read as harmful, those of 40 as harmless." in text
    assert re.search(r"push 1 of 4 watched features differently through features, 0 through outputs", text)
    assert "S_X by gradient against replay: rank correlation 1.000, median error 0.99 %." in text
    for line, _, reason in LEFT_OUT:
        assert str(line) in text
        assert reason in text
    assert "Row text is not kept with this audit" in text
    assert "Curation" not in text
    assert "Proof by retraining" not in text


def test_nothing_is_loaded_and_nothing_runs_but_ours(page: Page) -> None:
    assert len(page.running) == 2
    assert not [a for _, a in page.elements if "src" in a]
    links = [str(a["href"]) for t, a in page.elements if t == "a"]
    assert all(link.startswith(("#", "data:text/csv;base64,", "data:application/json;base64,")) for link in links)
    anchors = {str(a["id"]) for _, a in page.elements if "id" in a}
    assert {link[1:] for link in links if link.startswith("#")} <= anchors


def hostile_audit(home: Path) -> None:
    """An audit in which every text that comes from data is hostile."""

    def spoil(i: int, row: RowAudit) -> RowAudit:
        return replace(row, entry=replace(row.entry, row_id=f"{HOSTILE}{i}"))

    rows = write_audit(home, [spoil(i, row) for i, row in enumerate(make_rows())])
    write_texts(home, rows, HOSTILE, HOSTILE)
    write_curation(home, [HOSTILE, "score 2.3"])
    (home / "proof").mkdir()
    proof = {"recovered": {HOSTILE: [1, 0, 2]}, HOSTILE: HOSTILE, "effects": {HOSTILE: {HOSTILE: {"change": {}}}}}
    (home / "proof" / "proof.json").write_text(json.dumps(proof))
    (home / "left_out.jsonl").write_text(json.dumps({"line": 1, "id": HOSTILE, "reason": HOSTILE}) + "\n")
    kinds = json.loads((home / "row_kinds.json").read_text())
    kinds["kinds"][0]["kind"] = HOSTILE
    (home / "row_kinds.json").write_text(json.dumps(kinds))
    manifest = json.loads((home / "manifest.json").read_text())
    (home / "manifest.json").write_text(json.dumps({**manifest, "data": HOSTILE, "started": HOSTILE, HOSTILE: HOSTILE}))


def test_hostile_text_is_shown_and_inert(tmp_path: Path, page: Page) -> None:
    hostile_audit(tmp_path / "audit")
    bad = Page(write_report(tmp_path / "audit"))
    assert bad.running == page.running
    extra = {t for t, _ in bad.elements} - {t for t, _ in page.elements}
    assert extra <= {"dl", "dt", "dd", "i", "h3"}, "what shows row texts, and nothing else"
    assert not [name for _, a in bad.elements for name in a if name.startswith("on")]
    assert all(str(a["href"]).startswith(("#", "data:")) for t, a in bad.elements if t == "a")
    assert "<script>alert(1)</script></script><!-- <img src=x onerror=alert(2)>" in bad.text
    assert "{{7*7}}" in bad.text
    assert "\x1b" not in bad.text
    assert "\u202e" not in bad.text
    texts = [s for figure in bad.figures.values() for s in strings(figure)]
    assert any("&lt;script&gt;" in text for text in texts)
    assert {tag for text in texts for tag in re.findall(r"<[^<>]*>?", text)} <= {"<br>", "<extra>", "</extra>"}
    check_tables(bad)


def test_text_of_rows_only_where_it_was_kept(tmp_path: Path) -> None:
    rows = write_audit(tmp_path / "audit")
    write_texts(tmp_path / "audit", rows[:10], "May I ask?", "No, you may not.")
    write_curation(tmp_path / "audit", ["score 2.3 above 1.25"])
    text = flat(Page(write_report(tmp_path / "audit")))
    assert text.count("Prompt May I ask? Response No, you may not.") == 0
    assert "No, you may not." in text
    assert "Row text is not kept" not in text
    assert "the row's own words" not in text, "a curated row's own columns are not shown"


def test_curation_and_proof_are_on_the_page(tmp_path: Path) -> None:
    write_audit(tmp_path / "audit")
    write_curation(tmp_path / "audit", ["score 2.3 above 1.25", "pushes against the policy"])
    write_proof(tmp_path / "audit")
    shown = Page(write_report(tmp_path / "audit"))
    text = flat(shown)
    assert "score 2.3 above 1.25 · pushes against the policy" in text
    assert "Curation: 6 rows to remove, 4 to review." in text
    assert "0.91 [0.83, 0.99] of the planted rows' effect is recovered; without as many random rows 0.04" in text
    assert f"threshold{CURATION['threshold']}" in text.replace(" ", "")
    check_tables(shown)
    recovered = {line["name"]: line for line in shown.numbers("recovered")}
    for name, expected in PROOF["recovered"].items():
        assert [float(recovered[name][end]) for end in ("value", "low", "high")] == expected
    (point, other) = shown.figures["recovered"]["data"]
    assert (point["x"], other["x"]) == ([0.91], [0.04])
    assert point["error_x"]["array"] == [pytest.approx(0.08)]
    (change,) = shown.numbers("change-log-odds")
    assert (change["name"], float(change["value"])) == ("flagged.harmful", 0.4)
    assert {"change-decoding"} <= set(shown.figures)
    assert "200, 190, 210" in text, "three numbers elsewhere are no estimate"
    assert "effects.all.harmful.level.log_odds" in text


def test_it_says_plainly_what_a_proof_shows_and_of_which_curation(tmp_path: Path) -> None:
    home = tmp_path / "audit"
    write_audit(home)
    write_curation(home, ["score 2.3 above 1.25"])
    write_proof(home)
    assert "An effect of the flagged rows is shown" in flat(Page(write_report(home)))
    rule = {key: CURATION[key] for key in ("rule", "rate", "threshold")}
    known: dict[str, Any] = {"recovered": {"flagged": None, "random": None}, "finding": "nothing", "curation": rule}
    (home / "proof" / "proof.json").write_text(json.dumps(known))
    text = flat(Page(write_report(home)))
    assert "No effect of the flagged rows is shown: the interval of the change of every kind of prompt" in text
    assert "another curation" not in text
    (home / "proof" / "proof.json").write_text(json.dumps({**known, "curation": {**rule, "threshold": 1.5}}))
    assert "The proof is of rows that another curation flagged" in flat(Page(write_report(home)))


def test_only_the_first_rows_of_a_long_list_are_on_the_page(tmp_path: Path) -> None:
    write_audit(tmp_path / "audit")
    write_curation(tmp_path / "audit", ["a reason"])
    lines = [json.dumps({"id": f"odd-{i}", "line": i, "reason": "empty", "reasons": ["doubtful"]}) for i in range(70)]
    for name in ("left_out.jsonl", "curation/review.jsonl"):
        (tmp_path / "audit" / name).write_text("\n".join([*lines, '{"id": "never fini']))
    text = flat(Page(write_report(tmp_path / "audit")))
    assert "70 rows; the first 50 of them here" in text
    assert "Review: the first 50" in text
    assert text.count("doubtful") == text.count("empty") == 50


def test_an_audit_that_has_only_begun_says_so(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"kind": "audit", "status": "running"}))
    page = Page(write_report(tmp_path))
    assert "No row has been judged to the end yet." in page.text
    assert page.figures == {}
    assert "running" in page.text


def test_rows_without_scores_or_groups_do_not_stop_the_page(tmp_path: Path) -> None:
    nan = math.nan
    rows = [
        replace(
            row,
            entry=replace(
                row.entry, own_push=nan, own_predicted=nan, expected=nan, interference=nan, answer_reading=nan
            ),
            watched=(),
            intended=(),
            features=(),
            watched_interference=nan,
            watched_dominant=-1,
        )
        for row in make_rows()[:3]
    ]
    write_audit(tmp_path / "audit", rows)
    summary = json.loads((tmp_path / "audit" / "summary.json").read_text())
    assert summary["kinds"] is summary["harmful_vs_harmless"] is None
    page = Page(write_report(tmp_path / "audit"))
    assert "Nothing to compare" in page.text
    assert "3 rows judged, each by a training step of its own." in page.text
    assert "as intended" not in page.text


def test_groups_are_named_where_the_data_name_no_kinds(tmp_path: Path) -> None:
    write_audit(tmp_path / "audit", kinds=False)
    kinds = json.loads((tmp_path / "audit" / "row_kinds.json").read_text())
    assert not kinds["named"]
    assert [(kind["kind"], kind["rows"]) for kind in kinds["kinds"]] == [
        ("harmless prompt", 40),
        ("harmful prompt", 20),
    ]
    assert "how the rows' prompts read" in flat(Page(write_report(tmp_path / "audit")))


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("scores.parquet", "no table", "scores.parquet"),
        ("row_kinds.json", '{"named": 0}', "row_kinds.json: found something else"),
        ("manifest.json", "{", "manifest"),
        ("left_out.jsonl", "3\n", "left_out.jsonl: found a line that is no object"),
        ("summary.json", "[]", "summary.json: found not a JSON object"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, file: str, content: str, words: str) -> None:
    write_audit(tmp_path / "audit")
    (tmp_path / "audit" / file).write_text(content)
    with pytest.raises(ConfigError, match=words):
        write_report(tmp_path / "audit")


def test_smda_report_writes_an_audits_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_audit(tmp_path / "audit")
    assert main(["report", str(tmp_path / "audit")]) == 0
    assert "report.html" in capsys.readouterr().out
    assert "smda audit" in Page(tmp_path / "audit" / "report.html").text


def test_a_page_of_many_rows_stays_small(tmp_path: Path) -> None:
    rows: list[Any] = make_rows()
    many = [
        replace(rows[i % ROWS], line=i + 20, entry=replace(rows[i % ROWS].entry, row_id=f"mine-{i:05d}"))
        for i in range(2600)
    ]
    write_audit(tmp_path / "audit", many)
    page = Page(write_report(tmp_path / "audit"))
    drawn = sum(len(trace["x"]) for trace in page.figures["pathways"]["data"])
    assert drawn == len(page.numbers("pathways")) <= 2000
    assert sum(int(line["rows"]) for line in page.numbers("scores")) == 2599
    assert "one in 2 of the others" in page.text


def test_other_folders_are_refused_by_name(tmp_path: Path) -> None:
    write_audit(tmp_path / "both" / "refusal")
    with pytest.raises(ConfigError, match=r"no manifest\.json; .*name one in it: refusal"):
        write_report(tmp_path / "both")
    (tmp_path / "proof").mkdir()
    (tmp_path / "proof" / "manifest.json").write_text(json.dumps({"kind": "proof"}))
    with pytest.raises(ConfigError, match="one of kind 'proof'"):
        write_report(tmp_path / "proof")
    assert not (tmp_path / "proof" / "report.html").exists()
