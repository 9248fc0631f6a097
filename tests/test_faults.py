"""The benchmark of kills, faults and hostile files, in small: nothing is lost, changed or answered by a bare error."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "recipes" / "benchmarks"))
from _hostile import Specimen, tried

SCRIPT = Path(__file__).parent.parent / "recipes" / "benchmarks" / "faults.py"


def test_all_in_small(tmp_path: Path) -> None:
    words = ["--kills", "7", "--inputs", "60", "--workers", "1"]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *words, "--json", str(tmp_path / "found.json")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (tmp_path / "found.json").is_file(), done.stderr[-2000:]
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["errors"] == []
    assert done.returncode == 0
    assert (found["kills"], found["inputs"]) == (7, 60)
    ways = {way: count for way, count in found["kills_by_way"].items() if way != "none"}
    assert ways == dict.fromkeys(("setup", "training", "probes", "ledger", "checkpoint", "report", "resumed"), 1)
    assert len(found["faults"]) > 10
    assert not any(found["faults"].values())
    figures = ("rows_lost_beyond_open_step", "duplicates", "training_changed", "untyped_errors")
    assert {name: found[name] for name in figures} == dict.fromkeys(figures, 0)


def test_a_ledger_that_leaves_a_step_out_is_found_out(tmp_path: Path) -> None:
    script = Path(__file__).with_name("lossy_ledger.py")
    done = subprocess.run([sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    as_it_is, lossy = (json.loads(line) for line in done.stdout.splitlines()[-2:])
    assert as_it_is == {"missing": 0, "changed": False}
    assert lossy["missing"] > 0
    assert lossy["changed"]


def test_a_bare_error_is_counted(tmp_path: Path) -> None:
    (tmp_path / "whole").write_bytes(b"words")
    found = tried(
        Specimen("words", tmp_path / "whole", lambda path: path.read_bytes().decode("ascii"), 1.0),
        40,
        tmp_path / "d",
        0,
    )
    assert found.inputs == 40
    assert sum(found.untyped.values()) > 0
    assert found.read + sum(found.untyped.values()) == 40


def test_what_is_asked_wrongly_is_refused() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), "--kills", "0"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "at least 1" in done.stderr
