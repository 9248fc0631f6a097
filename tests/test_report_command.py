"""`smda report --json`: the headline figures are those of the ledger, and a file that cannot be written is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from synthetic_run import STEPS, write_run

from smda_monitor.cli import main
from smda_monitor.errors import ConfigError
from smda_monitor.outputs.report_figures import report_figures


def test_headline_figures_are_the_ledgers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    accounts = write_run(tmp_path / "run", row_text=False)
    assert main(["report", str(tmp_path / "run"), "--json", str(tmp_path / "figures.json")]) == 0
    assert "report.html" in capsys.readouterr().out
    found = json.loads((tmp_path / "figures.json").read_text())
    assert Path(found["report"]).is_file()
    assert (found["status"], found["steps"], found["accounts"]) == ("finished", STEPS, len(accounts))
    assert found["rows"] == len({(row.row_hash, row.row_id) for account in accounts for row in account.rows})
    assert found["refusal"] == pytest.approx(accounts[-1].refusal)
    settled = [row for account in accounts if not account.warm_up for row in account.rows]
    assert found["leading_rows"][0]["score"] == max(row.score for row in settled)
    assert found["summary"]["alerts"] == found["alerts"] == 2


def test_a_run_that_has_not_finished_has_figures_too(tmp_path: Path) -> None:
    write_run(tmp_path / "run", steps=3, row_text=False)
    (tmp_path / "run" / "summary.json").unlink()
    assert main(["report", str(tmp_path / "run"), "--json", str(tmp_path / "figures.json")]) == 0
    found = json.loads((tmp_path / "figures.json").read_text())
    assert (found["steps"], found["summary"]) == (3, None)
    assert not found["unexplained"]["after_warm_up"]


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "run", steps=2, row_text=False)
    assert main(["report", str(tmp_path / "run"), "--json", str(tmp_path)]) == 2
    assert f"--json {tmp_path}: found a folder" in capsys.readouterr().err
    assert not (tmp_path / "run" / "report.html").exists(), "it is said before the work is done"
    inside = tmp_path / "run" / "manifest.json" / "figures.json"
    assert main(["report", str(tmp_path / "run"), "--json", str(inside)]) == 2
    assert f"--json {inside}" in capsys.readouterr().err


@pytest.mark.parametrize(("kind", "name"), [("audit", "summary.json"), ("policy", "symbolic_policy.json")])
def test_what_is_no_run_has_its_own_figures(tmp_path: Path, kind: str, name: str) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"kind": kind}))
    (tmp_path / name).write_text(json.dumps({"rows": 7}))
    page = tmp_path / "report.html"
    assert report_figures(page, tmp_path) == {"report": str(page), "rows": 7}
    (tmp_path / name).unlink()
    with pytest.raises(ConfigError, match=name):
        report_figures(page, tmp_path)
