"""Several monitors in one run: each as it is alone, training as it is without any."""

from __future__ import annotations

import atexit
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from told_clock import ToldClock
from transformers import TrainerCallback

from smda_monitor.callback import SMDACallback
from smda_monitor.errors import ConfigError
from smda_monitor.monitor.together import watching
from smda_monitor.outputs.ledger_reader import read_ledger
from smda_monitor.records.account import StepAccount

STEPS = 5
ANOTHER = {"name": "hedging", "openings": ["Maybe", "Well"], "opposite": ["Surely", "No"], "answers": None}


def configs(folder: Path) -> list[dict[str, Any]]:
    """Refusal, and another behaviour with other probes on another layer; both audit a row at every step."""
    first = tiny.tiny_config(folder / "first") | {"audit": {"share": 1.0}}
    second = tiny.tiny_config(folder / "second") | {"audit": {"share": 1.0}, "behaviour": ANOTHER, "seed": 3}
    second["dictionary"] = {"path": str(tiny.write_dictionary(folder / "second" / "other", layer=2, seed=5))}
    return [first, second]


def trained(folder: Path, monitors: list[dict[str, Any]], **settings: Any) -> tuple[Any, list[SMDACallback]]:
    # Every monitor has all the time it asks for: what one measures is not what another can afford.
    clock = ToldClock(prompt=0.0)
    callbacks = [SMDACallback(config) for config in monitors]
    for callback in callbacks:
        callback.clock = clock
    trainer = tiny.tiny_trainer(folder, [clock, *callbacks], dropout=0.1, max_steps=STEPS, **settings)
    trainer.train()
    return trainer, callbacks


def timeless(account: StepAccount) -> Mapping[str, Any]:
    plain = replace(account, seconds=0.0)
    return {name: getattr(plain, name) for name in StepAccount.__dataclass_fields__}


SETTINGS = [
    pytest.param({"gradient_accumulation_steps": 2}, id="accumulation-checkpointing"),
    pytest.param({"gradient_checkpointing": False, "max_grad_norm": 0.1, "weight_decay": 0.1}, id="clipping-decay"),
    pytest.param({"optim": "adafactor"}, id="accounts-by-replay"),
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_each_monitor_of_two_is_as_it_is_alone(tmp_path: Path, settings: dict[str, Any]) -> None:
    plain, _ = trained(tmp_path / "plain", [], **settings)
    state = torch.get_rng_state()
    alone = [trained(tmp_path / f"alone-{i}", [c], **settings)[1][0] for i, c in enumerate(configs(tmp_path / "one"))]
    trainer, together = trained(tmp_path / "both", configs(tmp_path / "two"), **settings)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(plain.model.parameters(), trainer.model.parameters(), strict=True))
    losses = [[e["loss"] for e in one.state.log_history if "loss" in e] for one in (plain, trainer)]
    assert losses[0] == losses[1]
    for mine, shared in zip(alone, together, strict=True):
        assert mine.run is not None
        assert shared.run is not None
        assert len(shared.run.accounts) == STEPS
        assert [repr(timeless(a)) for a in mine.run.accounts] == [repr(timeless(a)) for a in shared.run.accounts]
        audits = [[(a.step, a.row_id, a.push, a.replayed) for a in one.run.auditor.entries] for one in (mine, shared)]
        assert audits[0] == audits[1]
    first, second = (one.run.accounts[-1] for one in together if one.run)
    assert first.refusal != second.refusal, "they read different behaviours"
    hooks = [[(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in t.model.modules()] for t in (plain, trainer)]
    assert hooks[0] == hooks[1]
    assert all(watching(t.state) == [] for t in (plain, trainer))


class Interrupted(Exception):
    """Stands for a kill: nothing is closed."""


class InterruptAfter(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise Interrupted


def test_both_go_on_from_a_checkpoint(tmp_path: Path) -> None:
    """A checkpoint knows every run that watched it."""

    def train(extra: list[TrainerCallback], resume: str | None, monitors: list[dict[str, Any]]) -> None:
        callbacks = [SMDACallback(config) for config in monitors]
        every = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
        try:
            tiny.tiny_trainer(tmp_path, [*callbacks, *extra], **every).train(resume_from_checkpoint=resume)
        finally:
            for callback in callbacks:
                atexit.unregister(callback.close)  # a kill closes nothing

    with pytest.raises(Interrupted):
        train([InterruptAfter(3)], None, configs(tmp_path))
    checkpoint = str(tmp_path / "trainer" / "checkpoint-2")
    stranger = tiny.tiny_config(tmp_path / "stranger")
    tiny.tiny_trainer(tmp_path / "other", [SMDACallback(stranger)], max_steps=1).train()
    with pytest.raises(ConfigError, match=r"run id .* and .*; expected those of the run in it"):
        train([], checkpoint, [stranger])
    train([], checkpoint, configs(tmp_path))
    for name in ("first", "second"):
        assert [a.step for a in read_ledger(tmp_path / name / "run").accounts] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("same", "message"),
    [
        ("outputs", r"outputs\.folder .*: found the folder of another monitor"),
        ("behaviour", r"behaviour\.name 'refusal': found the name of another monitor"),
    ],
)
def test_what_two_monitors_cannot_share_is_refused(tmp_path: Path, same: str, message: str) -> None:
    first, second = configs(tmp_path)
    first["outputs"] = {**first["outputs"], "exists": "move_aside"}
    second[same] = first[same]
    callbacks = [SMDACallback(first), SMDACallback(second)]
    with pytest.raises(ConfigError, match=message):
        tiny.tiny_trainer(tmp_path, callbacks, max_steps=1).train()
    assert (tmp_path / "first" / "run" / "manifest.json").exists(), "it was not moved away"
    for callback in callbacks:
        callback.close()


def test_what_one_takes_is_no_plain_training_to_the_other(tmp_path: Path) -> None:
    """Under a budget each chooses as it does alone."""

    def choices(name: str, which: slice) -> list[tuple[int, int]]:
        # Both with the same probes and openings, so that what they take is the same.
        both = [tiny.tiny_config(tmp_path / name / which_one) for which_one in ("one", "two")]
        both[1]["behaviour"] = {**both[1]["behaviour"], "name": "another"}
        clock = ToldClock(prompt=0.04)
        callbacks = [SMDACallback(config | {"overhead": 1.0}) for config in both][which]
        for callback in callbacks:
            callback.clock = clock
        tiny.tiny_trainer(tmp_path / name, [clock, *callbacks], max_steps=STEPS).train()
        run = callbacks[0].run
        assert run is not None
        assert run.pace.plain == pytest.approx(STEPS)
        return [(a.step - a.since, len(a.probe_ids)) for a in run.accounts]

    alone = choices("alone", slice(0, 1))
    assert len(alone) > 1
    assert choices("both", slice(0, 2)) == alone


class Unhooks(TrainerCallback):
    """Takes one monitor's hooks off before step 2, so that it sees no rows of it."""

    def __init__(self, monitor: SMDACallback) -> None:
        self.monitor = monitor

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 1:
            assert self.monitor.run is not None
            assert self.monitor.run.accountant.capture is not None
            self.monitor.run.accountant.capture.remove()


def test_one_that_fails_leaves_the_other_alone(tmp_path: Path) -> None:
    first, second = configs(tmp_path)
    callbacks = [SMDACallback(first | {"on_error": "warn"}), SMDACallback(second)]
    trainer = tiny.tiny_trainer(tmp_path, [*callbacks, Unhooks(callbacks[0])], max_steps=4)
    trainer.train()
    assert callbacks[0].error is not None
    assert "rows of the step" in callbacks[0].error
    assert [a.step for a in read_ledger(tmp_path / "first" / "run").accounts] == [1]
    assert [a.step for a in read_ledger(tmp_path / "second" / "run").accounts] == [1, 2, 3, 4]
    assert watching(trainer.state) == []
