"""The index of audits for several behaviours: their figures and rows side by side, links that lead to their pages."""

from __future__ import annotations

import json
from math import inf
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from synthetic_audit import ROWS, make_rows, score, write_audit, write_scores
from test_report import HOSTILE, Page

from smda_monitor.cli import main
from smda_monitor.errors import ConfigError
from smda_monitor.outputs.behaviour_scores import write_behaviour_scores
from smda_monitor.outputs.behaviours_view import LEADING
from smda_monitor.outputs.report import write_report
from smda_monitor.outputs.report.behaviours_page import DRAWN_ROWS

NAMES = ("refusal", "a guess & more")
BY_KIND = {"over-refusal": (0.97, 0.5), "stereotype": (None, 1.0)}


def other_score(i: int) -> float | None:
    """For the second behaviour the first rows lead; row 7 has none."""
    return None if i == 7 else -0.1 * i


def write_both(home: Path) -> None:
    """What `smda audit` leaves around two audits, the second one's page not written yet."""
    rows = make_rows()
    for name, of in zip(NAMES, (score, other_score), strict=True):
        write_audit(home / name, rows)
        write_scores(home / name, rows, [of(i) for i in range(ROWS)])
    write_report(home / NAMES[0])
    write_behaviour_scores(home / "scores.parquet", {name: home / name for name in NAMES})
    behaviours: dict[str, dict[str, Any]] = {}
    for which, name in enumerate(NAMES):
        figures = json.loads((home / name / "summary.json").read_text())
        by_kind = {kind: both[which] for kind, both in BY_KIND.items()}
        behaviours[name] = {**figures, "auroc_controls": 0.9 + which / 20, "auroc_controls_by_kind": by_kind}
    about = {"kinds_about": {"over-refusal": None, "stereotype": NAMES[1]}}
    summary = {**behaviours[NAMES[0]], **about, "behaviours": behaviours}
    (home / "summary.json").write_text(json.dumps(summary))
    manifest = {"kind": "audits", "data": "rows.jsonl", "behaviours": NAMES, "written": "2026-01-02T03:04:05+00:00"}
    (home / "manifest.json").write_text(json.dumps(manifest))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("behaviours") / "both"
    write_both(home)
    return home


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    return Page(write_report(folder))


def leads(page: Page) -> list[str]:
    """Where its links lead, those within the page and its downloads apart."""
    links = [str(attributes["href"]) for tag, attributes in page.elements if tag == "a"]
    return [link for link in links if not link.startswith(("#", "data:"))]


def test_each_behaviour_has_its_figures_and_a_link_to_its_page(page: Page, folder: Path) -> None:
    text = " ".join(page.text.split())
    assert f"{ROWS} rows, each judged for 2 behaviours." in text
    assert "Most suspicious for refusal: mine-059, mine-049, mine-039, mine-029, mine-019." in text
    assert "Most suspicious for a guess & more: mine-000, mine-001, mine-002, mine-003, mine-004." in text
    assert leads(page) == ["refusal/report.html"]
    assert (folder / leads(page)[0]).is_file()
    assert "no page yet: smda report both/a guess & more" in text
    for line, name in zip(page.numbers("behaviours"), NAMES, strict=True):
        assert line["behaviour"] == name
        assert (line["rows"], line["scored"], line["left_out"]) == (str(ROWS), str(ROWS - 1), "2")
        assert (line["S_X"], line["S_Y"], line["seconds"]) == ("1.0", "1.0", "83.0")
    assert [float(line["auroc_controls"]) for line in page.numbers("behaviours")] == pytest.approx([0.9, 0.95])
    assert json.loads(page.download("behaviours.json"))[1]["unintended"] == 0.1
    assert text.count("harmful_vs_harmless.harmful") == 2, "every figure of each summary is listed"
    assert "&amp;" not in text, "a legend's name is escaped once"


def test_a_link_leads_to_a_page_as_soon_as_there_is_one(tmp_path: Path) -> None:
    write_both(tmp_path / "both")
    write_report(tmp_path / "both" / NAMES[1])
    page = Page(write_report(tmp_path / "both"))
    assert leads(page) == ["refusal/report.html", "a%20guess%20%26%20more/report.html"]


def test_scores_stand_side_by_side_as_in_the_file(page: Page, folder: Path) -> None:
    scores = {line["row_id"]: line for line in pq.read_table(folder / "scores.parquet").to_pylist()}
    lines = page.numbers("leading")
    assert len(lines) == len({line["row_id"] for line in lines})
    for name in NAMES:
        ranked = sorted(
            scores.values(), key=lambda line: -inf if line[f"score.{name}"] is None else line[f"score.{name}"]
        )
        assert {line["row_id"] for line in ranked[-LEADING:]} <= {line["row_id"] for line in lines}
    for line in lines:
        for name in NAMES:
            expected = scores[line["row_id"]][f"score.{name}"]
            assert line[f"score.{name}"] == ("" if expected is None else str(expected))
    first, second = page.figures["leading"]["data"]
    assert len(first["x"]) == len(second["x"]) == 2 * DRAWN_ROWS, "no row leads for both"
    assert first["x"][0] == score(59)
    assert second["x"][DRAWN_ROWS] == other_score(0)
    assert first["x"][DRAWN_ROWS] == score(0), "a row that leads for the one has its score for the other too"


def test_kinds_are_told_by_the_behaviour_that_they_are_about(page: Page) -> None:
    lines = {line["kind"]: line for line in page.numbers("told-apart")}
    assert {kind: line["about"] for kind, line in lines.items()} == {"over-refusal": "", "stereotype": NAMES[1]}
    for kind, found in BY_KIND.items():
        for name, expected in zip(NAMES, found, strict=True):
            assert lines[kind][f"auroc.{name}"] == ("" if expected is None else str(expected))
    assert [trace["x"] for trace in page.figures["told-apart"]["data"]] == [[0.97, None], [0.5, 1.0]]


def test_smda_report_writes_it_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_both(tmp_path / "both")
    assert main(["report", str(tmp_path / "both"), "--json", str(tmp_path / "figures.json")]) == 0
    assert str(tmp_path / "both" / "report.html") in capsys.readouterr().out
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert set(figures["behaviours"]) == set(NAMES)


def test_without_planted_rows_or_scores_it_says_so(tmp_path: Path) -> None:
    write_both(tmp_path)
    table = pq.read_table(tmp_path / "scores.parquet")
    none = pa.nulls(ROWS, pa.float64())
    pq.write_table(table.set_column(4, f"score.{NAMES[1]}", none), tmp_path / "scores.parquet")
    summary = json.loads((tmp_path / "summary.json").read_text())
    for figures in summary["behaviours"].values():
        figures |= {"auroc_controls": None, "auroc_controls_by_kind": {}, "gradient_vs_replay": None}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    page = Page(write_report(tmp_path))
    assert "For a guess & more no row has a score." in page.text
    assert set(page.figures) == {"leading"}
    assert [line["S_X"] for line in page.numbers("behaviours")] == ["", ""]


def test_hostile_names_are_shown_and_inert(tmp_path: Path, page: Page) -> None:
    write_both(tmp_path)
    names = [HOSTILE, f"../{NAMES[0]}"]
    table = pq.read_table(tmp_path / "scores.parquet")
    columns = [*table.column_names[:3], *(f"score.{name}" for name in names)]
    pq.write_table(table.rename_columns(columns), tmp_path / "scores.parquet")
    summary = json.loads((tmp_path / "summary.json").read_text())
    figures = [{**found, HOSTILE: HOSTILE} for found in summary["behaviours"].values()]
    renamed = {"behaviours": dict(zip(names, figures, strict=True)), "kinds_about": {"stereotype": HOSTILE}}
    (tmp_path / "summary.json").write_text(json.dumps({**summary, **renamed}))
    (tmp_path / "manifest.json").write_text(json.dumps({"kind": "audits", "data": HOSTILE, "written": HOSTILE}))
    bad = Page(write_report(tmp_path))
    assert bad.running == page.running
    assert {tag for tag, _ in bad.elements} == {tag for tag, _ in page.elements}
    assert not [name for _, attributes in bad.elements for name in attributes if name.startswith("on")]
    assert leads(bad) == [], "a name that is no folder's leads nowhere"
    assert "<script>alert(1)" in bad.text
    assert "\x1b" not in bad.text


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("summary.json", '{"rows": 3}', "summary.json: found no figures"),
        ("summary.json", '{"behaviours": {"refusal": 3}}', "summary.json: found no figures"),
        ("summary.json", '{"behaviours": {"other": {"rows": 3}}}', r"scores\.parquet: found no column 'score\.other'"),
        ("scores.parquet", "no table", "scores.parquet"),
        ("manifest.json", "{", "manifest"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, file: str, content: str, words: str) -> None:
    write_both(tmp_path)
    (tmp_path / file).write_text(content)
    with pytest.raises(ConfigError, match=words):
        write_report(tmp_path)
