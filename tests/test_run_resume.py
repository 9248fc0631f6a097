"""A resumed run continues its ledger without gap or duplicate, and ends as the unbroken one."""

from __future__ import annotations

import atexit
import json
from pathlib import Path
from typing import Any

import pytest
import tiny
from transformers import TrainerCallback

from smda_monitor.callback import SMDACallback
from smda_monitor.errors import ConfigError
from smda_monitor.outputs.ledger_reader import read_ledger


class Killed(Exception):
    """Stands for a kill: nothing is closed."""


class KillAfter(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise Killed


def kill(callback: SMDACallback) -> None:
    """What a kill does: nothing is closed, and the hooks and the held heap are gone with the process."""
    atexit.unregister(callback.close)
    if callback.run is not None:
        callback.run.close()


def _train(
    folder: Path,
    run: Path,
    extra: list[TrainerCallback],
    resume: bool = False,
    monitored: bool = True,
    config: Any = None,
) -> None:
    callbacks = [SMDACallback(config or tiny.tiny_config(run))] if monitored else []
    trainer = tiny.tiny_trainer(folder, [*callbacks, *extra], max_steps=6, save_strategy="steps", save_steps=3)
    try:
        trainer.train(resume_from_checkpoint=str(folder / "trainer" / "checkpoint-3") if resume else None)
    finally:
        for callback in callbacks:
            kill(callback)


def test_a_resumed_run_equals_the_unbroken_one(tmp_path: Path) -> None:
    _train(tmp_path / "a", tmp_path / "whole", [])
    with pytest.raises(Killed):
        _train(tmp_path / "b", tmp_path / "broken", [KillAfter(5)])
    assert [a.step for a in read_ledger(tmp_path / "broken" / "run").accounts] == [1, 2, 3, 4, 5]
    _train(tmp_path / "b", tmp_path / "broken", [], resume=True)
    whole, broken = (read_ledger(tmp_path / name / "run") for name in ("whole", "broken"))
    assert [a.step for a in broken.accounts] == [1, 2, 3, 4, 5, 6]
    for a, b in zip(whole.accounts, broken.accounts, strict=True):
        assert [r.row_id for r in a.rows] == [r.row_id for r in b.rows]
        for x, y in zip(a.balances, b.balances, strict=True):
            assert y.measured == pytest.approx(x.measured, rel=1e-4, abs=1e-6)
            assert y.history == pytest.approx(x.history, rel=1e-4, abs=1e-6)
        assert b.rows[0].push["mass.harmful"] == pytest.approx(a.rows[0].push["mass.harmful"], rel=1e-4, abs=1e-7)
    assert any(balance.history != 0 for balance in broken.accounts[3].balances), (
        "momentum came back with the checkpoint"
    )
    manifest, summary = (
        json.loads((tmp_path / "broken" / "run" / name).read_text()) for name in ("manifest.json", "summary.json")
    )
    assert manifest["status"] == "finished"
    assert (summary["steps"], summary["accounts"]) == (6, 6), "the whole run, not its last part"
    assert summary["rows"] == json.loads((tmp_path / "whole" / "run" / "summary.json").read_text())["rows"]


def test_another_runs_folder_is_refused_and_left_alone(tmp_path: Path) -> None:
    for name in ("a", "b"):
        with pytest.raises(Killed):
            _train(tmp_path / name, tmp_path / f"run-{name}", [KillAfter(5)])
    with pytest.raises(ConfigError, match=r"(?s)resuming in .*run-a.*run id .*expected those of the run in it"):
        _train(tmp_path / "b", tmp_path / "run-a", [], resume=True)
    assert [a.step for a in read_ledger(tmp_path / "run-a" / "run").accounts] == [1, 2, 3, 4, 5]


def test_a_resume_with_another_dictionary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        _train(tmp_path, tmp_path / "m", [KillAfter(5)])
    config = tiny.tiny_config(tmp_path / "m")
    config["dictionary"]["path"] = str(tiny.write_dictionary(tmp_path / "other", seed=9))
    with pytest.raises(ConfigError, match=r"(?s)found dictionary .*use the run's own configuration"):
        _train(tmp_path, tmp_path / "m", [], resume=True, config=config)
    assert [a.step for a in read_ledger(tmp_path / "m" / "run").accounts] == [1, 2, 3, 4, 5]


def test_a_checkpoint_made_without_the_monitor_can_be_resumed_with_it(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        _train(tmp_path, tmp_path / "m", [KillAfter(4)], monitored=False)
    _train(tmp_path, tmp_path / "m", [], resume=True)
    assert [a.step for a in read_ledger(tmp_path / "m" / "run").accounts] == [4, 5, 6]


def test_a_second_run_in_the_same_folder_is_refused_or_set_aside(tmp_path: Path) -> None:
    config = tiny.tiny_config(tmp_path / "m", exists="move_aside")
    for _ in range(2):
        tiny.tiny_trainer(tmp_path, [SMDACallback(config)], max_steps=1).train()
    assert len(read_ledger(tmp_path / "m" / "run").accounts) == 1
    assert len(read_ledger(tmp_path / "m" / "run.1").accounts) == 1
