"""The page at the end of a command: written again, or said not to be, and never in the way of what was found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from synthetic_audit import write_audit, write_curation, write_proof

from smda_monitor.outputs.report import renew_report, renew_report_with


def test_the_page_shows_what_was_found_since(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_audit(tmp_path / "audit")
    page = tmp_path / "audit" / "report.html"
    renew_report(tmp_path / "audit")
    assert capsys.readouterr().out == f"report: {page}\n"
    assert "Curation:" not in page.read_text()
    write_curation(tmp_path / "audit", ["score 2.3 above 1.25"])
    write_proof(tmp_path / "audit")
    renew_report_with(tmp_path / "audit", "proof", tmp_path / "audit" / "." / "proof")
    assert capsys.readouterr().out == f"report: {page}\n"
    assert "Curation: 6 rows to remove" in page.read_text()
    assert "score 2.3 above 1.25" in page.read_text()


def test_what_lies_elsewhere_is_said_not_to_be_on_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_audit(tmp_path / "audit")
    renew_report_with(tmp_path / "audit", "proof", tmp_path / "elsewhere")
    shown = capsys.readouterr().out
    assert f"nothing of {tmp_path / 'elsewhere'}" in shown
    assert not (tmp_path / "audit" / "report.html").exists()


def test_a_page_that_cannot_be_written_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_audit(tmp_path / "audit")
    (tmp_path / "audit" / "report.html").mkdir()
    renew_report(tmp_path / "audit")
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "report: NOT written (ConfigError:" in shown.err
    assert "there is no page" in shown.err
    assert f"`smda report {tmp_path / 'audit'}` writes the page" in shown.err


def test_an_earlier_page_stays_and_is_said_to_be_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also where what is wrong is no error of ours: reasons that are none."""
    write_audit(tmp_path / "audit")
    renew_report(tmp_path / "audit")
    before = (tmp_path / "audit" / "report.html").read_bytes()
    write_curation(tmp_path / "audit", ["a reason"])
    (tmp_path / "audit" / "curation" / "remove.jsonl").write_text(
        json.dumps({"id": "a", "line": 1, "reasons": 3}) + "\n"
    )
    renew_report(tmp_path / "audit")
    assert "NOT written (TypeError:" in capsys.readouterr().err
    assert (tmp_path / "audit" / "report.html").read_bytes() == before
