"""`smda audit` under torchrun: what two ranks find is what one process finds, and each goes on for the other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from audit_home import audit, lines_of, make_home, words

from smda_monitor.outputs.row_audit_tables import read_judged

ROOT = Path(__file__).parent.parent


def torchrun(home: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """The audit on two ranks, for a second behaviour too."""
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "smda_monitor"]
    return subprocess.run(
        [sys.executable, "-m", *launcher, *words(home, "both", "--config", str(home / "second.yaml"), *more)],
        capture_output=True, text=True, check=False, timeout=300, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def same(folder: Path, other: Path) -> None:
    """Whether two audits found the same of the same rows, in the same order."""
    for part in ("judged", "checked"):
        ours, theirs = list(read_judged(folder / part)), list(read_judged(other / part))
        assert [one.entry.row_id for one in ours] == [one.entry.row_id for one in theirs]
        for one, two in zip(ours, theirs, strict=True):
            # Of the size of the row's pushes: threads add up in another order, and small effects are differences.
            least = 1e-4 * max(map(abs, two.entry.push.values()))
            assert one.entry.push == pytest.approx(two.entry.push, rel=1e-4, abs=least)
            assert one.entry.loss == pytest.approx(two.entry.loss, rel=1e-5)
            assert one.entry.own_push == pytest.approx(two.entry.own_push, rel=1e-4, abs=least)
    assert lines_of(folder / "left_out.jsonl") == lines_of(other / "left_out.jsonl")


def scores(folder: Path) -> dict[str, float]:
    return {row["row_id"]: row["score"] for row in pq.read_table(folder / "scores.parquet").to_pylist()}


def figures(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return found


def test_two_ranks_find_what_one_process_finds(tmp_path: Path) -> None:
    home = make_home(tmp_path, lora={"lora_dropout": 0.2})
    config = yaml.safe_load((home / "config.yaml").read_text())
    second = {"name": "hedging", "openings": ["Maybe", "Well"], "opposite": ["Surely"]}
    (home / "second.yaml").write_text(yaml.safe_dump({**config, "behaviour": second}))
    assert audit(home, "one")[0] == 0
    done = torchrun(home)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("38 rows judged") == 2, "one rank prints, of each behaviour"
    one, two = home / "one", home / "both" / "refusal"
    assert set(figures(home / "both")["behaviours"]) == {"refusal", "hedging"}
    same(one, two)
    assert scores(two) == pytest.approx(scores(one), rel=1e-4, abs=1e-4)
    assert (figures(one)["ranks"], figures(two)["ranks"]) == (1, 2)
    losses = {row.line: row.entry.loss for row in read_judged(one / "judged")}
    others = {row.line: row.entry.loss for row in read_judged(one / "checked")}
    assert any(abs(losses[line] - loss) > 1e-3 for line, loss in others.items()), "other masks would show"
    # Another number of ranks goes on: a part that is missing is judged again, dropout and all.
    for part in (sorted((two / "judged").iterdir())[0], sorted((two / "checked").iterdir())[-1]):
        part.unlink()
    assert audit(home, "both/refusal", "--resume")[0] == 0
    same(one, two)
    (home / "rows.jsonl").write_text('{"prompt": "another", "response": "set"}\n')
    ended = torchrun(home, "--resume")
    assert ended.returncode != 0
    assert "an audit with other rows" in ended.stderr
