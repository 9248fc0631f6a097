"""The self-audit in a run: replays equal an independent one, stay in their budget, and leave training alone."""

from __future__ import annotations

import atexit
import json
import math
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from test_run_resume import KillAfter, Killed
from transformers import TrainerCallback
from twin import TwinReplayer

from smda_monitor.callback import SMDACallback
from smda_monitor.maths.fidelity import pooled_fidelity
from smda_monitor.maths.pathways import output_shift
from smda_monitor.outputs.ledger_reader import read_ledger

SETTINGS: dict[str, Any] = {"gradient_accumulation_steps": 2, "learning_rate": 5e-4, "lr_scheduler_type": "constant"}


def run_of(monitor: SMDACallback) -> Any:
    assert monitor.run is not None
    return monitor.run


@pytest.mark.parametrize("max_grad_norm", [0.0, 0.05], ids=["no clipping", "biting"])
def test_the_replay_is_the_step_without_the_row(tmp_path: Path, max_grad_norm: float) -> None:
    config = tiny.tiny_config(tmp_path / "m") | {"audit": {"share": 1.0}}
    monitor = SMDACallback(config)
    twin = TwinReplayer(monitor)
    tiny.tiny_trainer(tmp_path, [twin, monitor], max_steps=6, max_grad_norm=max_grad_norm, **SETTINGS).train()
    run = run_of(monitor)
    assert [a.step for a in run.auditor.entries] == [1, 2, 3, 4, 5, 6]
    assert {a.reason for a in run.auditor.entries} == {"sample"}
    places = []
    for account, audit in zip(run.accounts, run.auditor.entries, strict=True):
        (place,) = [i for i, row in enumerate(account.rows) if row.row_hash == audit.row_hash]
        places.append(place)
        assert audit.push == account.rows[place].push
        assert audit.row_id == account.rows[place].row_id
        assert audit.warm_up
        assert audit.features == ()
        for k, balance in enumerate(account.balances):
            truth = float(twin.push[account.step][place, k])
            assert audit.replayed[balance.target] == pytest.approx(truth, abs=2 * audit.noise[balance.target])
            others = [float(v) for i, v in enumerate(twin.push[account.step][:, k]) if i != place]
            assert max(abs(truth - other) for other in others) > 4 * audit.noise[balance.target], (
                "else any row would do"
            )
    assert len(set(places)) > 1, "rows are drawn"
    errors = [
        abs(a.push[t] - a.replayed[t]) / abs(a.replayed[t])
        for a in run.auditor.entries[2:]
        for t in a.push
        if t != "S_X"
    ]
    assert sorted(errors)[len(errors) // 2] < 0.05, "the push is close, and the audit says so"


def test_an_account_that_ends_early_is_audited_too(tmp_path: Path) -> None:
    config = tiny.tiny_config(tmp_path / "m") | {"audit": {"share": 1.0}, "account": {"every": 7}}
    monitor = SMDACallback(config)
    saving = {"save_strategy": "steps", "save_steps": 2}
    tiny.tiny_trainer(tmp_path, [monitor], max_steps=5, **saving, **SETTINGS).train()
    run = run_of(monitor)
    assert [(account.since, account.step) for account in run.accounts] == [(0, 2), (2, 4), (4, 5)]
    assert [sum(a.since < audit.step <= a.step for audit in run.auditor.entries) for a in run.accounts] == [1, 1, 1]
    assert pooled_fidelity(run.auditor.entries).overall.relative_error < 0.05


def test_any_step_of_an_interval_is_audited_on_its_own(tmp_path: Path) -> None:
    audit = {"share": 1.0, "rows": ["mine-2", "mine-9"]}
    monitor = SMDACallback(
        tiny.tiny_config(tmp_path / "m") | {"audit": audit, "account": {"every": 4}}, rows=tiny.tiny_rows()
    )
    twin = TwinReplayer(monitor)
    tiny.tiny_trainer(tmp_path, [twin, monitor], max_steps=20, max_grad_norm=0.05, **SETTINGS).train()
    run = run_of(monitor)
    drawn = [entry for entry in run.auditor.entries if entry.reason == "sample"]
    assert [(e.step - 1) // 4 for e in drawn] == [0, 1, 2, 3, 4], "one in each account"
    assert len({e.step % 4 for e in drawn}) > 1, "at any of its steps"
    assert {e.row_id for e in run.auditor.entries if e.reason == "asked"} == {"mine-2", "mine-9"}
    for entry in run.auditor.entries:
        account = run.accounts[(entry.step - 1) // 4]
        rows = [row for row in account.rows if row.step == entry.step]
        (place,) = [i for i, row in enumerate(rows) if row.row_id == entry.row_id]
        assert entry.push == rows[place].push
        for k, balance in enumerate(account.balances):
            truth = float(twin.push[entry.step][place, k])
            assert entry.replayed[balance.target] == pytest.approx(truth, abs=2 * entry.noise[balance.target])
    written = read_ledger(tmp_path / "m" / "run").audits
    assert [(e.step, e.row_id, e.push, e.replayed) for e in written] == [
        (e.step, e.row_id, e.push, e.replayed) for e in run.auditor.entries
    ]


class SavesNothing(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_save = False


def test_a_step_that_was_to_end_an_account_and_did_not_is_in_no_audit(tmp_path: Path) -> None:
    rows = [f"mine-{i}" for i in range(24)]
    config = tiny.tiny_config(tmp_path / "m") | {"audit": {"share": 0, "rows": rows}, "account": {"every": 4}}
    monitor = SMDACallback(config, rows=tiny.tiny_rows())
    saving = {"save_strategy": "steps", "save_steps": 2}
    tiny.tiny_trainer(tmp_path, [SavesNothing(), monitor], max_steps=4, **saving, **SETTINGS).train()
    run = run_of(monitor)
    assert [(account.since, account.step) for account in run.accounts] == [(0, 4)]
    assert {entry.step for entry in run.auditor.entries} == {1, 3, 4}, "the others are audited"


def test_the_audited_run_is_the_unaudited_one(tmp_path: Path) -> None:
    ends = []
    for share in (0.0, 1.0):
        folder = tmp_path / str(share)
        config = tiny.tiny_config(folder / "m") | {"audit": {"share": share}}
        monitor = SMDACallback(config)
        trainer = tiny.tiny_trainer(folder, [monitor], dropout=0.1, max_steps=3)
        trainer.train()
        ends.append((run_of(monitor), [p.detach().clone() for p in trainer.model.parameters()]))
    assert [len(run.auditor.entries) for run, _ in ends] == [0, 3]
    assert all(torch.equal(a, b) for a, b in zip(ends[0][1], ends[1][1], strict=True))
    for a, b in zip(ends[0][0].accounts, ends[1][0].accounts, strict=True):
        assert [row.push for row in a.rows] == [row.push for row in b.rows]
        assert a.balances == b.balances


def test_a_row_asked_for_has_its_whole_finite_effect(tmp_path: Path) -> None:
    config = tiny.tiny_config(tmp_path / "m") | {"audit": {"share": 0, "rows": ["mine-3", "mine-7", "no such row"]}}
    monitor = SMDACallback(config, rows=tiny.tiny_rows())
    twin = TwinReplayer(monitor)
    tiny.tiny_trainer(tmp_path, [twin, monitor], num_train_epochs=1, max_steps=-1, **SETTINGS).train()
    run = run_of(monitor)
    assert sorted(a.row_id for a in run.auditor.entries) == ["mine-3", "mine-7"]
    policy, plan = run.instruments.policy, run.instruments.plan
    for audit in run.auditor.entries:
        account = run.accounts[audit.step - 1]
        (place,) = [i for i, row in enumerate(account.rows) if row.row_id == audit.row_id]
        assert audit.reason == "asked"
        assert len(audit.features) == run.instruments.bench.config.outputs.leading_features
        assert 0 <= audit.refit_remainder < 1
        shift_Y = output_shift(run.instruments.frame, plan.rows, twin.delta_y[audit.step][place], plan.weights)
        at = [policy.feature_ids.index(f.feature) for f in audit.features]
        assert [f.shift_Y for f in audit.features] == pytest.approx(shift_Y[at].tolist(), rel=0.1, abs=1e-6)
        # S_X and S_Y are the sums over all features: of the leading ones alone they are most.
        whole = sum((f.shift_X + f.shift_Y) * f.coefficient for f in audit.features)
        assert whole == pytest.approx(audit.replayed["S_X"] + audit.replayed["S_Y"], rel=0.5, abs=1e-4)
    page = (tmp_path / "m" / "run" / "report.html").read_text()
    assert "Rows asked for" in page
    assert read_ledger(tmp_path / "m" / "run").audits == pytest.approx(run.auditor.entries, nan_ok=True)


def test_audits_keep_to_their_share(tmp_path: Path) -> None:
    monitor = SMDACallback(tiny.tiny_config(tmp_path / "m") | {"audit": {"share": 1e-9}})
    tiny.tiny_trainer(tmp_path, [monitor], max_steps=4).train()
    assert [a.step for a in run_of(monitor).auditor.entries] == [1], "the first account is always checked"


def test_outputs_say_what_the_audit_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monitor = SMDACallback(tiny.tiny_config(tmp_path / "m") | {"audit": {"share": 1.0}})
    tiny.tiny_trainer(tmp_path, [monitor], max_steps=14, **SETTINGS).train()
    summary = json.loads((tmp_path / "m" / "run" / "summary.json").read_text())["audit"]
    assert (summary["rows"], summary["after_warm_up"]) == (2, True)
    assert 0 <= summary["relative_error"] < 1
    assert summary["sign"] > 0.5
    assert "smda: self-audit of 2 rows: pushes miss exact replays by" in capsys.readouterr().err
    assert 'id="audit"' in (tmp_path / "m" / "run" / "report.html").read_text()


def test_a_resumed_run_keeps_its_audits(tmp_path: Path) -> None:
    def train(extra: list[TrainerCallback], resume: bool) -> None:
        monitor = SMDACallback(tiny.tiny_config(tmp_path / "m") | {"audit": {"share": 1.0}})
        trainer = tiny.tiny_trainer(tmp_path, [monitor, *extra], max_steps=6, save_strategy="steps", save_steps=3)
        checkpoint = tmp_path / "trainer" / "checkpoint-3"
        try:
            trainer.train(resume_from_checkpoint=str(checkpoint) if resume else None)
        finally:
            atexit.unregister(monitor.close)  # a kill closes nothing

    with pytest.raises(Killed):
        train([KillAfter(5)], resume=False)
    folder = tmp_path / "m" / "run"
    before = read_ledger(folder)
    assert [a.step for a in before.audits] == [1, 2, 3, 4, 5]
    train([], resume=True)
    after = read_ledger(folder)
    assert [a.step for a in after.audits] == [1, 2, 3, 4, 5, 6]
    assert [a.row_id for a in after.audits[:5]] == [a.row_id for a in before.audits], "drawn by the step, not by chance"
    assert json.loads((folder / "summary.json").read_text())["audit"]["rows"] == 6


class SkipsOneStep(TrainerCallback):
    """Gives Accelerate's wrapper a gradient scaler that finds an overflow at one step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        wrapper, outer = kwargs["optimizer"], self

        class Scaler:
            def step(self, optimizer: Any, closure: Any) -> None:
                if state.global_step + 1 != outer.step:
                    optimizer.step(closure)

            def update(self) -> None:
                pass

            def unscale_(self, optimizer: Any) -> None:
                pass

        wrapper.__init__(wrapper.optimizer, device_placement=False, scaler=Scaler())  # as Accelerate makes it for fp16


def test_a_step_that_the_scaler_skipped_is_no_step(tmp_path: Path) -> None:
    config = tiny.tiny_config(tmp_path / "m") | {"audit": {"share": 1.0}}
    answers = [{"prompt": f"q{i}", "response": f"{i} this", "kind": ("harmful", "benign")[i % 2]} for i in range(4)]
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in answers))
    config["behaviour"]["answers"] = str(tmp_path / "answers.jsonl")
    monitor = SMDACallback(config)
    trainer = tiny.tiny_trainer(tmp_path, [SkipsOneStep(3), monitor], max_steps=5, **SETTINGS)
    trainer.train()
    run = run_of(monitor)
    assert trainer.state.global_step == 5
    assert [a.step for a in run.accounts] == [1, 2, 4, 5]
    assert [a.step for a in run.auditor.entries] == [1, 2, 4, 5]
    for account in run.accounts:
        assert len(account.rows) == 4, "the rows of the skipped step are in no account"
        assert account.capture_error < 1e-5
        assert all(b.target.startswith(("S_X", "explained")) or b.unexplained_fraction < 0.05 for b in account.balances)
    rows = [row.row_id for account in run.accounts for row in account.rows]
    assert len(set(rows)) == 16
    assert not any(math.isnan(row.answer_reading) for account in run.accounts for row in account.rows)
