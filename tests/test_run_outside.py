"""Weights that something else moves are noticed, and no row is blamed for it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from transformers import TrainerCallback

from smda_monitor.callback import SMDACallback
from smda_monitor.records.account import StepAccount


class Mover(TrainerCallback):
    """Moves one weight at an event of a step."""

    def __init__(self, event: str, step: int) -> None:
        self.event, self.step = event, step

    def _at(self, event: str, state: Any, model: Any) -> None:
        if (event, state.global_step) == (self.event, self.step):
            weight = next(p for p in model.parameters() if p.requires_grad)
            with torch.no_grad():
                weight.mul_(1.05)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._at("on_step_begin", state, kwargs["model"])

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._at("on_optimizer_step", state, kwargs["model"])

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._at("on_step_end", state, kwargs["model"])

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._at("on_train_end", state, kwargs["model"])


def accounts(
    folder: Path, event: str, step: int, first: bool = True, every: int = 1, **settings: Any
) -> tuple[list[StepAccount], SMDACallback]:
    config = {**tiny.tiny_config(folder / "m"), "account": {"every": every}}
    monitor, mover = SMDACallback(config), Mover(event, step)
    callbacks = [mover, monitor] if first else [monitor, mover]
    tiny.tiny_trainer(folder, callbacks, max_steps=4, **settings).train()
    assert monitor.run is not None
    return monitor.run.accounts, monitor


@pytest.mark.parametrize(
    ("event", "step", "first", "where"),
    [
        ("on_step_begin", 1, True, 2),
        ("on_optimizer_step", 1, True, 2),  # the step's number is counted after it
        ("on_step_end", 2, True, 2),
        ("on_step_end", 2, False, 3),
    ],
)
def test_the_account_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, event: str, step: int, first: bool, where: int
) -> None:
    with caplog.at_level(logging.WARNING, "smda_monitor"):
        found, monitor = accounts(tmp_path, event, step, first)
    assert [account.outside for account in found] == [account.step == where for account in found]
    assert caplog.text.count("Something other than the optimizer's step") == 1
    assert monitor.run is not None
    told = [alert for alert in monitor.run.alerts if alert.subject.startswith("trained parameters")]
    assert [alert.step for alert in told] == [where]
    by_step = {account.step: account.balance("S_Y") for account in found}
    moved, others = by_step[where], [balance for at, balance in by_step.items() if at != where]
    assert moved.unexplained_fraction > 3 * max(balance.unexplained_fraction for balance in others)


@pytest.mark.parametrize("every", [1, 3])
def test_without_another_hand_nothing_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture, every: int) -> None:
    with caplog.at_level(logging.WARNING, "smda_monitor"):
        found, monitor = accounts(tmp_path, "never", 0, every=every, optim="adamw_torch")
    assert not any(account.outside for account in found)
    assert "Something other" not in caplog.text
    assert monitor.run is not None
    optimizer = monitor.run.accountant._optimizer.optimizer
    assert not optimizer._optimizer_step_post_hooks, "the hook is gone"


class Allocates(TrainerCallback):
    """AdaLoRA's own, as PEFT says to call it."""

    def __init__(self) -> None:
        self.moved: list[bool] = []

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        model = kwargs["model"]
        values = [p for name, p in model.named_parameters() if "lora_E" in name]
        before = [value.detach().clone() for value in values]
        model.base_model.update_and_allocate(state.global_step)
        self.moved.append(not all(map(torch.equal, before, values)))


def test_ranks_that_adalora_takes_away_are_no_row_s(tmp_path: Path) -> None:
    from peft import AdaLoraConfig, get_peft_model

    told: Any = {"target_modules": ["q_proj", "v_proj"], "init_r": 4, "target_r": 2, "total_step": 7, "tfinal": 2}
    model: Any = get_peft_model(tiny.tiny_llama(), AdaLoraConfig(task_type="CAUSAL_LM", deltaT=2, **told))
    for name, parameter in model.named_parameters():
        if "lora_E" in name:
            torch.nn.init.ones_(parameter)
    allocates, monitor = Allocates(), SMDACallback(tiny.tiny_config(tmp_path / "m"))
    tiny.tiny_trainer(tmp_path, [allocates, monitor], model=model, max_steps=6).train()
    assert monitor.run is not None
    accounts = monitor.run.accounts
    assert set(allocates.moved) == {True, False}
    assert [account.outside for account in accounts] == allocates.moved
    assert max(account.capture_error for account in accounts) < 1e-5


def test_a_row_that_was_replayed_before_the_move_is_not_held_against_it(tmp_path: Path) -> None:
    config = {**tiny.tiny_config(tmp_path / "m"), "audit": {"rows": [f"row-{i:06d}" for i in range(24)], "share": 0}}
    monitor = SMDACallback(config)
    tiny.tiny_trainer(tmp_path, [Mover("on_step_end", 2), monitor], max_steps=3).train()
    assert monitor.run is not None
    assert {entry.step for entry in monitor.run.auditor.entries} == {1, 3}


def test_accounts_by_replay_say_so_too(tmp_path: Path) -> None:
    found, _ = accounts(tmp_path, "on_step_end", 2, optim="adafactor")
    assert [account.outside for account in found] == [False, True, False, False]
    assert all(account.method == "replay" for account in found)


def test_an_interval_says_so_whichever_step_it_was(tmp_path: Path) -> None:
    found, _ = accounts(tmp_path, "on_step_end", 1, every=2)
    assert [(account.step, account.outside) for account in found] == [(2, True), (4, False)]


def test_a_model_that_is_changed_after_the_last_step(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As `load_best_model_at_end` does."""
    with caplog.at_level(logging.WARNING, "smda_monitor"):
        found, monitor = accounts(tmp_path, "on_train_end", 4)
    assert not any(account.outside for account in found)
    assert monitor.run is not None
    assert [alert.step for alert in monitor.run.alerts if alert.subject.startswith("trained parameters")] == [4]
    assert "moved the trained parameters after step 4" in caplog.text
