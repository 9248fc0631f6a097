"""A training on two ranks, monitored: accounts, alerts and weights are those of one process with the same steps."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import ranked
import torch
from test_drift_watch import ALERTS

from smda_monitor.outputs.ledger_reader import read_accounts, read_ledger
from smda_monitor.outputs.run_folder import CHECKPOINT_FILE
from smda_monitor.records.account import StepAccount

HERE = Path(__file__).parent
SAME: dict[str, dict[str, Any]] = {
    "LoRA": {},
    "full": {"model": "full, tied", "learning_rate": 1e-4},
    "accumulated": {
        "gradient_accumulation_steps": 2,
        "monitor": {"account": {"every": 2, "watched_every": 1}, "overhead": None},
    },
    "packed": {"packing": True, "max_length": 64, "max_steps": 3},
    "replayed": {"optim": "adafactor", "max_steps": 2},
    "drifting": {
        "drifting": True,
        "max_steps": 6,
        "learning_rate": 3e-2,
        "monitor": {"alerts": {**ALERTS, "stop": ["drift"]}},
    },
}
"""What is trained alike on one process and on two. Adam's first steps are sign-like: without an epsilon that is felt
they blow up what float32 rounds away."""
for job in SAME.values():
    job["adam_epsilon"] = 1e-3
BY_SECONDS: dict[str, dict[str, Any]] = {
    "budget": {"monitor": {"overhead": 0.9}, "max_steps": 8},
    "audits": {"monitor": {"audit": {"share": 0.3}}, "max_steps": 8},
}
"""What is measured, or replayed, rests on how long things take."""
INVISIBLE = ("LoRA", "full", "packed")
"""What is trained without the monitor too."""
FAILING: dict[str, Any] = {"monitor": {"on_error": "warn"}, "break": [1, 2]}
SAVING: dict[str, Any] = {"save_strategy": "steps", "save_steps": 2, "adam_epsilon": 1e-3}


def on_two_ranks(folder: Path, **jobs: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    """The trainings of `ranked`."""
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", str(HERE / "ranked.py")]
    return subprocess.run(
        [sys.executable, "-m", *launcher, str(folder), json.dumps(jobs)],
        capture_output=True, text=True, check=False, timeout=300, cwd=HERE,
        env={**os.environ, "PYTHONPATH": f"{HERE.parent}:{HERE}", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def left(folder: Path, ranks: int = 2) -> list[dict[str, Any]]:
    """What every rank left of one training."""
    return [torch.load(folder / f"rank-{rank}.pt") for rank in range(ranks)]


def alone(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """What this process by itself leaves of one."""
    ranked.train(folder, settings)
    (found,) = left(folder, 1)
    return found


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all trainings on two ranks that end by themselves."""
    folder = tmp_path_factory.mktemp("ranks")
    plain = {f"plain {name}": {**SAME[name], "plain": True} for name in INVISIBLE}
    done = on_two_ranks(folder, **SAME, **BY_SECONDS, **plain, failing=FAILING)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def same_weights(one: dict[str, Any], ranks: list[dict[str, Any]]) -> None:
    for name, weight in one["weights"].items():
        assert torch.allclose(weight, ranks[0]["weights"][name], rtol=1e-4, atol=1e-6), name
        assert torch.equal(ranks[0]["weights"][name], ranks[1]["weights"][name]), name


def same_accounts(one: list[StepAccount], two: list[StepAccount]) -> None:
    assert [account.step for account in one] == [account.step for account in two]
    for a, b in zip(one, two, strict=True):
        assert [row.row_id for row in a.rows] == [row.row_id for row in b.rows], "row for row"
        rows, others = ({(row.step, row.row_id): row for row in account.rows} for account in (a, b))
        assert rows.keys() == others.keys()
        assert len(rows) == len(a.rows) == len(b.rows)
        assert a.probe_ids == b.probe_ids
        assert b.capture_error < 1e-5
        for key, row in rows.items():
            other = others[key]
            assert row.loss == pytest.approx(other.loss, rel=1e-5)
            assert row.gradient_norm == pytest.approx(other.gradient_norm, rel=1e-4)
            assert row.score == pytest.approx(other.score, rel=1e-3, abs=1e-4, nan_ok=True)
            assert row.watched.keys() == other.watched.keys()
            for feature, push in row.watched.items():
                assert push == pytest.approx(other.watched[feature], rel=1e-3, abs=1e-6)
            for figures, theirs in ((row.push, other.push), (row.share, other.share)):
                least = 1e-4 * max(map(abs, figures.values())) + 5e-6  # nats, of some: float32
                assert figures == pytest.approx(theirs, rel=1e-4, abs=least)
        for mine, theirs in zip(a.balances, b.balances, strict=True):
            assert mine.measured == pytest.approx(theirs.measured, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("name", SAME)
def test_two_ranks_find_what_one_process_finds(tmp_path: Path, two: Path, name: str) -> None:
    one, ranks = alone(tmp_path / name, SAME[name]), left(two / name)
    same_weights(one, ranks)
    same_accounts(read_accounts(tmp_path / name / "run"), read_accounts(two / name / "run"))
    assert one["alerts"] == ranks[0]["alerts"] == ranks[1]["alerts"]
    assert ranks[0]["audited"] == ranks[1]["audited"]
    assert one["step"] == ranks[0]["step"] == ranks[1]["step"]


@pytest.mark.parametrize("name", INVISIBLE)
def test_weights_are_those_without_the_monitor(two: Path, name: str) -> None:
    for watched, plain in zip(left(two / name), left(two / f"plain {name}"), strict=True):
        assert watched["weights"].keys() == plain["weights"].keys()
        assert all(torch.equal(weight, plain["weights"][key]) for key, weight in watched["weights"].items())


@pytest.mark.parametrize("name", BY_SECONDS)
def test_ranks_whose_clocks_differ_go_by_one(two: Path, name: str) -> None:
    first, second = left(two / name)
    for what in ("accounts", "audited", "alerts"):
        assert first[what] == second[what], what
    assert first["accounts"][-1][0] == 8
    assert name == "budget" or len(first["audited"]) > 1


def test_an_alert_stops_all_with_a_checkpoint_a_closed_ledger_and_a_report(two: Path) -> None:
    first, second = left(two / "drifting")
    assert first["step"] == second["step"] < 6
    assert first["told"] == [subject for subject, _ in first["alerts"]] != []
    assert second["told"] == [], "a user's function is called once"
    view = read_ledger(two / "drifting" / "run")
    assert view.manifest["status"] == "finished"
    assert [account.step for account in view.accounts] == list(range(1, first["step"] + 1))
    assert (two / "drifting" / "run" / "report.html").is_file()
    assert (two / "drifting" / "trainer" / f"checkpoint-{first['step']}" / CHECKPOINT_FILE).is_file()


def test_one_that_fails_ends_the_monitoring_on_all_and_training_goes_on(two: Path) -> None:
    first, second = left(two / "failing")
    assert first["step"] == second["step"] == 4
    assert "rank 1 failed: rows of the step: found none" in first["error"]
    assert second["error"].startswith("MeasurementError: rows of the step: found none")
    view = read_ledger(two / "failing" / "run")
    assert view.manifest["status"] == "failed"
    assert [account.step for account in view.accounts] == [1]


def test_ranks_that_died_go_on_without_gap_or_duplicate(tmp_path: Path) -> None:
    """Then one meets a folder that is no run's: it says so, and nobody waits for it."""
    unbroken = alone(tmp_path / "whole", SAVING)
    died = on_two_ranks(tmp_path, died={**SAVING, "die": 3})
    assert died.returncode != 0
    assert [account.step for account in read_accounts(tmp_path / "died" / "run")] == [1, 2]
    (tmp_path / "other" / "run").mkdir(parents=True)
    (tmp_path / "other" / "run" / "notes.txt").write_text("mine")
    refused = on_two_ranks(tmp_path, died={**SAVING, "resume": "checkpoint-2"}, other={})
    assert refused.returncode != 0
    assert "a folder with other files (notes.txt)" in refused.stderr
    assert [path.name for path in (tmp_path / "other" / "run").iterdir()] == ["notes.txt"]
    same_weights(unbroken, left(tmp_path / "died"))
    accounts = read_accounts(tmp_path / "died" / "run")
    assert [account.step for account in accounts] == [1, 2, 3, 4]
    same_accounts(read_accounts(tmp_path / "whole" / "run"), accounts)
