"""Whole runs under a budget of time, on a clock that moves only when it is told to."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import tiny
from told_clock import STEP, ToldClock

from smda_monitor.callback import SMDACallback
from smda_monitor.errors import ConfigError
from smda_monitor.maths.budget import ROTATION
from smda_monitor.monitor.run import MonitoredRun
from smda_monitor.outputs.ledger_reader import LedgerView, read_ledger
from smda_monitor.outputs.report import write_report
from smda_monitor.outputs.snapshots import load_snapshot, save_snapshot, snapshot_files

PROBES, SET = 12, 24
"""Of the tiny configuration: probes measured, probes in the set."""


def _train(
    folder: Path, clock: ToldClock, steps: int, changes: dict[str, Any], resume: str | None = None, **settings: Any
) -> tuple[MonitoredRun, LedgerView]:
    monitor = SMDACallback(tiny.tiny_config(folder / "m") | {"audit": {"share": 0.0}} | changes)
    monitor.clock = clock
    trainer = tiny.tiny_trainer(folder, [clock, monitor], max_steps=steps, **settings)
    trainer.train(resume_from_checkpoint=resume)
    assert monitor.run is not None
    return monitor.run, read_ledger(folder / "m" / "run")


def _intervals(view: LedgerView) -> list[int]:
    return [a.step - a.since for a in view.accounts]


def _overhead(view: LedgerView) -> dict[str, Any]:
    assert view.summary is not None
    found: dict[str, Any] = view.summary["overhead"]
    return found


def test_the_interval_follows_from_what_was_measured(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """By hand: 12 probes of 0.04 s, at every eighth account twice, 0.54 s in all; two own prompts of 0.04 s a step; a
    plain step of 1 s, but for the first and one in the middle: 0.54/J + 0.08 ≤ 0.30 → J = 3."""
    clock = ToldClock(prompt=0.04, slow=(1, 11))
    with caplog.at_level(logging.WARNING, "smda_monitor"):
        run, view = _train(tmp_path, clock, 18, {"overhead": 0.30})
    assert run.pace.every == 3
    assert set(_intervals(view)[2:-1]) == {3}
    assert [a.since for a in view.accounts[1:]] == [a.step for a in view.accounts[:-1]], "no gap, no step twice"
    told = [r.message for r in caplog.records if "about" in r.message]
    assert told[-1] == "overhead: 30 % asked, about 26 % expected with account.every 3 and 12 probes, audits up to 0 %"
    assert len(told) == len(set(told)) <= 3, "said when it changes, not at every account"
    found = _overhead(view)
    assert (found["asked"], found["every"], found["probes"]) == (0.30, 3, PROBES)
    assert found["measured"] == pytest.approx(clock.measuring / clock.plain), "as the clock itself counted"


def test_a_long_run_costs_what_was_asked(tmp_path: Path) -> None:
    clock = ToldClock(prompt=0.04)
    run, view = _train(tmp_path, clock, 36, {"overhead": 0.15})
    assert run.pace.every == 8
    assert set(_intervals(view)) == {4, 8}, "the first from the probe pass alone, without own prompts"
    whole = 0.04 * SET
    assert clock.measuring - whole <= 0.15 * clock.plain, "but for the last snapshot of the whole set"
    assert _overhead(view)["measured"] <= 0.15 + whole / clock.plain


def test_without_a_budget_the_cost_is_said_and_nothing_chosen(tmp_path: Path) -> None:
    clock = ToldClock(prompt=0.04)
    run, view = _train(tmp_path, clock, 6, {"account": {"every": 2}})
    assert _intervals(view) == [2, 2, 2]
    assert _overhead(view) == {
        "asked": None, "measured": pytest.approx(clock.measuring / clock.plain), "every": 2, "probes": PROBES,
    }  # fmt: skip
    assert len({a.probe_ids for a in view.accounts}) == 1
    assert list(view.accounts[0].probe_ids) == view.manifest["measured_probes"]
    assert run.monitor_seconds > clock.measuring, "the setting up is the monitor's too"


def test_hooks_inside_training_are_counted(tmp_path: Path) -> None:
    monitor = SMDACallback(tiny.tiny_config(tmp_path / "m") | {"audit": {"share": 0.0}})
    tiny.tiny_trainer(tmp_path, [monitor], max_steps=2).train()
    assert monitor.run is not None
    assert 0 < monitor.run.pace.hooks.seconds < monitor.run.pace.worked


def test_probes_take_turns_and_accounts_close(tmp_path: Path) -> None:
    run, view = _train(tmp_path, ToldClock(prompt=1e-6), ROTATION + 3, {"overhead": 1.0})
    groups = [a.probe_ids for a in view.accounts]
    assert _intervals(view)[1:] == [1] * (len(groups) - 1)
    turns = [groups[i : i + ROTATION] for i in range(0, len(groups), ROTATION)]
    assert all(len(set(turn)) == 1 for turn in turns)
    assert len({turn[0] for turn in turns}) == len(turns) == 2
    assert len({probe for group in groups for probe in group}) > PROBES
    assert {len(group) for group in groups} == {PROBES}
    first = load_snapshot(snapshot_files(view.folder)[0])
    for account in view.accounts:
        for target in ("mass.harmful", "contrast.benign"):
            assert account.balance(target).unexplained_fraction < 0.02, (account.step, target)
        assert {len(values) for values in account.probes.values()} == {PROBES}
        assert {len(v) for row in account.rows for v in row.probe_share.values()} == {PROBES}
    # The last account against the whole set: what its probes stand for is what they are.
    assert run.accountant.start.probe_ids == groups[-1]
    assert run.accountant.start.mass.tolist() == first.part(groups[-1]).mass.tolist()


def test_an_account_after_a_turn_starts_where_the_last_one_ended(tmp_path: Path) -> None:
    """At both ends of each account its own probes: between the turn and the end, their shifts add up to the difference
    of snapshots, for the probes that never left."""
    _, view = _train(tmp_path, ToldClock(prompt=1e-6), ROTATION + 3, {"overhead": 1.0})
    steady = set.intersection(*(set(a.probe_ids) for a in view.accounts))
    assert len({a.probe_ids for a in view.accounts}) == 2
    assert steady
    first, last = (load_snapshot(path) for path in snapshot_files(view.folder).values())
    for probe in steady:
        moved = sum(a.probes["mass.measured"][a.probe_ids.index(probe)] for a in view.accounts)
        expected = (last.part([probe]).mass - first.part([probe]).mass).item()
        assert moved == pytest.approx(expected, rel=1e-3, abs=1e-4)
        assert abs(expected) > 1e-3


def test_audits_keep_to_a_third(tmp_path: Path) -> None:
    run, view = _train(tmp_path, ToldClock(prompt=0.01), 14, {"overhead": 0.30, "audit": {"share": 1.0}})
    assert len(view.audits) > 2
    assert run.auditor.spent <= 0.10 * 14 * STEP
    assert run.auditor.spent > 0.03 * 14 * STEP, "and make use of it"
    assert _overhead(view)["measured"] <= 0.30 + 0.01 * SET / 14


def test_a_resumed_run_goes_on_with_the_interval_it_had(tmp_path: Path) -> None:
    """From the probe pass alone it would begin with two steps; the checkpoint has cut the last account short."""
    saving = {"save_strategy": "steps", "save_steps": 6}
    _, earlier = _train(tmp_path, ToldClock(prompt=0.04), 6, {"overhead": 0.3}, **saving)
    assert _intervals(earlier) == [2, 3, 1]
    checkpoint = str(tmp_path / "trainer" / "checkpoint-6")
    run, view = _train(tmp_path, ToldClock(prompt=0.04), 12, {"overhead": 0.3}, checkpoint, **saving)
    assert _intervals(view) == [2, 3, 1, 3, 3]
    assert [a.probe_ids for a in view.accounts[:3]] == [a.probe_ids for a in earlier.accounts]
    assert run.pace.accounts == len(view.accounts)


def test_the_report_reads_each_accounts_own_probes(tmp_path: Path) -> None:
    _, view = _train(tmp_path, ToldClock(prompt=1e-6), ROTATION + 2, {"overhead": 1.0})
    assert len({a.probe_ids for a in view.accounts}) == 2
    page = write_report(view.folder).read_text()
    assert "of plain training" in page
    # Without the last snapshot both ends are read on the last account's probes, and the first snapshot must hold them.
    for step, path in snapshot_files(view.folder).items():
        if step:
            path.unlink()
        else:
            save_snapshot(view.folder, load_snapshot(path).part(view.accounts[0].probe_ids))
    missing = sorted(set(view.accounts[-1].probe_ids) - set(view.accounts[0].probe_ids))
    with pytest.raises(ConfigError, match=rf"step-000000\.safetensors: found .* first '{missing[0]}'"):
        write_report(view.folder)


def test_the_key_is_checked(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="overhead"):
        SMDACallback(tiny.tiny_config(tmp_path) | {"overhead": 0.0})
    assert json.loads(SMDACallback(tiny.tiny_config(tmp_path)).config.model_dump_json())["overhead"] is None
