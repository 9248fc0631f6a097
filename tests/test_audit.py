"""`smda audit` from the command line on a tiny model: written, resumed, refused."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from audit_home import ROWS, audit, lines_of, make_home, write_lines

from smda_monitor.cli import main
from smda_monitor.outputs.row_audit_tables import read_judged


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model on disk, its configuration, and rows of which two cannot be trained on."""
    return make_home(tmp_path_factory.mktemp("audit"))


def test_an_audit_is_written_and_resumed(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, whole = audit(home, "whole", "--json", str(home / "figures.json"))
    assert code == 0
    assert "38 rows judged" in capsys.readouterr().out
    judged = list(read_judged(whole / "judged"))
    assert [one.line for one in judged] == [n for n in range(1, ROWS + 1) if n not in (4, 8)]
    assert [line["line"] for line in lines_of(whole / "left_out.jsonl")] == [4, 8]
    figures = json.loads((home / "figures.json").read_text())
    assert figures == json.loads((whole / "summary.json").read_text())
    assert (figures["rows"], figures["left_out"], figures["method"]) == (38, 2, "gradient")
    assert figures["gradient_vs_replay"]["S_Y"] > 0.98
    assert figures["gradient_vs_replay"]["S_X"] > 0.95
    assert figures["gradient_vs_replay"]["times_faster"] > 0
    scores = pq.read_table(whole / "scores.parquet").to_pylist()
    assert len(scores) == 38
    assert [row["score"] for row in scores] == sorted((row["score"] for row in scores), reverse=True)
    by_id = {one.entry.row_id: one for one in judged}
    assert all(row["S"] == by_id[row["row_id"]].S for row in scores)
    # A part that is lost is judged again, and alone; everything comes out the same.
    parts = sorted((whole / "judged").iterdir())
    first = parts[0].read_bytes()
    parts[1].unlink()
    assert audit(home, "whole", "--resume")[0] == 0
    assert parts[0].read_bytes() == first
    for one, other in zip(judged, read_judged(whole / "judged"), strict=True):
        assert one.entry.push == pytest.approx(other.entry.push, rel=1e-5)
    rows = home / "rows.jsonl"
    before = rows.read_text()
    rows.write_text(before + json.dumps({"prompt": "one more", "response": "and its answer"}) + "\n")
    assert audit(home, "whole", "--resume")[0] == 2
    assert "an audit with other rows" in capsys.readouterr().err
    rows.write_text(before)


def test_by_replay_every_row_has_its_features(home: Path) -> None:
    code, folder = audit(home, "replay", "--method", "replay")
    assert code == 0
    judged = list(read_judged(folder / "judged"))
    assert len(judged) == 38
    assert all(one.features and one.refit_remainder >= 0 for one in judged)
    figures = json.loads((folder / "summary.json").read_text())
    assert figures["gradient_vs_replay"] is None
    assert figures["refit_remainder"] == statistics.median(one.refit_remainder for one in judged)
    assert "exact refits of the policy differ" in (folder / "report.html").read_text()


def test_another_audits_folder_is_refused(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "full").mkdir()
    (home / "full" / "notes.txt").write_text("mine")
    assert audit(home, "full")[0] == 2
    assert "found a folder that is not empty" in capsys.readouterr().err
    assert (home / "full" / "notes.txt").read_text() == "mine"
    (home / "full" / "manifest.json").write_text(json.dumps({"data": "other", "config": {}}))
    assert audit(home, "full", "--resume")[0] == 2
    assert "an audit with other data and config" in capsys.readouterr().err


def test_what_cannot_be_set_up_is_named(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = yaml.safe_load((home / "config.yaml").read_text())
    config["training"]["arguments"]["learning_rat"] = 1.0
    (home / "wrong.yaml").write_text(yaml.safe_dump(config))
    words = ["audit", str(home / "rows.jsonl"), "--config", str(home / "wrong.yaml"), "--out", str(home / "wrong")]
    assert main(words) == 2
    assert "did you mean 'learning_rate'?" in capsys.readouterr().err
    assert not (home / "wrong").exists(), "nothing is left behind"
    assert main(["audit", str(home / "none.jsonl"), *words[2:]]) == 2
    assert "none.jsonl" in capsys.readouterr().err
    assert audit(home, "never", "--resume")[0] == 2
    assert "manifest" in capsys.readouterr().err


@pytest.mark.parametrize("more", [(), ("--resume",)])
def test_an_audit_that_was_killed_while_it_was_set_up_begins_anew(home: Path, more: tuple[str, ...]) -> None:
    """Whether it is asked for again or resumed: there is no judgement yet that could be of other rows."""
    out = f"killed{len(more)}"
    code, folder = audit(home, out, "--check", "0")
    assert code == 0
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["status"] == "finished"
    expected = [one.entry.push for one in read_judged(folder / "judged")]
    for path in [*(folder / "judged").iterdir(), folder / "left_out.jsonl", folder / "scores.parquet"]:
        path.unlink()
    del manifest["rows"]
    (folder / "manifest.json").write_text(json.dumps({**manifest, "status": "setting up"}))
    assert audit(home, out, "--check", "0", *more)[0] == 0
    assert [one.entry.push for one in read_judged(folder / "judged")] == [pytest.approx(e, rel=1e-5) for e in expected]
    assert len(lines_of(folder / "left_out.jsonl")) == 2
    assert json.loads((folder / "manifest.json").read_text())["status"] == "finished"


def test_a_killed_audit_goes_on_without_gap_or_duplicate(home: Path) -> None:
    rows = [{"id": f"r-{i}", "prompt": f"ask {i}", "response": f"say {i * i}"} for i in range(160)]
    write_lines(home / "many.jsonl", rows)
    words = ["audit", str(home / "many.jsonl"), "--config", str(home / "config.yaml"), "--method", "replay"]
    words += ["--out", str(home / "killed")]
    root = Path(__file__).parent.parent
    process = subprocess.Popen(
        [sys.executable, "-m", "smda_monitor", *words], cwd=root, env={**os.environ, "PYTHONPATH": str(root)},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    judged = home / "killed" / "judged"
    end = time.monotonic() + 300
    while not list(judged.glob("judged-*.parquet")) and process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    process.kill()
    process.wait()
    before = {path: path.stat().st_mtime_ns for path in judged.glob("judged-*.parquet")}
    assert 1 <= len(before) < 5, "it was killed at work"
    assert main([*words, "--resume"]) == 0
    assert [one.entry.row_id for one in read_judged(judged)] == [row["id"] for row in rows]
    assert {path: path.stat().st_mtime_ns for path in before} == before, "what was there is not judged again"
