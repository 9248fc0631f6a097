"""The monitor is invisible: weights, loss log and random state equal those without it, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from told_clock import ToldClock
from transformers import TrainerCallback

from smda_monitor.callback import SMDACallback
from smda_monitor.instruments.parameters import trained_parameters
from smda_monitor.instruments.row_capture import RowCapture


class DrawsOneNumber(TrainerCallback):
    """The negative control: a measurement that samples."""

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        torch.rand(1)


class Captures(TrainerCallback):
    """The capture of rows alone, without probes."""

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.errors: list[float] = []
        self.parameters = trained_parameters(kwargs["model"])
        self.capture = RowCapture(kwargs["model"], self.parameters)

    def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        clipped = self.parameters.flatten([w.grad for w in self.parameters.weights if w.grad is not None]).double()
        _, _, gradients = self.capture.take()
        total = gradients.dense(0, gradients.size).double().sum(0)
        factor = float(clipped @ total) / float(total @ total)
        self.errors.append(float((clipped - factor * total).norm() / clipped.norm()))


def _train(folder: Path, callbacks: list[TrainerCallback], **settings: Any) -> tuple[list[torch.Tensor], Any, Any]:
    trainer = tiny.tiny_trainer(folder, callbacks, dropout=0.1, max_steps=6, **settings)
    trainer.train()
    log = [{k: v for k, v in entry.items() if "loss" in k or "grad_norm" in k} for entry in trainer.state.log_history]
    return [p.detach().clone() for p in trainer.model.parameters()], log, torch.get_rng_state()


SETTINGS = [
    pytest.param({"gradient_accumulation_steps": 2}, id="dropout-accumulation-checkpointing"),
    pytest.param({"gradient_checkpointing_kwargs": {"use_reentrant": True}}, id="reentrant-checkpointing"),
    pytest.param({"gradient_checkpointing": False, "max_grad_norm": 0.1, "weight_decay": 0.1}, id="clipping-decay"),
    pytest.param({"bf16": True}, id="bf16-autocast"),
    pytest.param({"optim": "sgd"}, id="sgd"),
    pytest.param({"optim": "adafactor", "gradient_accumulation_steps": 2}, id="accounts-by-replay"),
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_training_is_bit_identical_with_the_monitor(tmp_path: Path, settings: dict[str, Any]) -> None:
    plain = _train(tmp_path / "plain", [], **settings)
    callback = SMDACallback(tiny.tiny_config(tmp_path / "monitor"))
    watched = _train(tmp_path / "watched", [callback], **settings)
    assert callback.run is not None
    assert len(callback.run.accounts) == 6
    assert all(torch.equal(a, b) for a, b in zip(plain[0], watched[0], strict=True))
    assert plain[1] == watched[1]
    assert torch.equal(plain[2], watched[2])


MODELS = [
    pytest.param(tiny.tiny_llama, {}, id="full, Llama"),
    pytest.param(tiny.tiny_llama, {"gradient_checkpointing_kwargs": {"use_reentrant": True}}, id="full, reentrant"),
    pytest.param(tiny.tiny_gpt2, {"gradient_accumulation_steps": 2}, id="full, GPT-2, dropout"),
    pytest.param(tiny.tiny_gpt2, {"bf16": True}, id="full, GPT-2, bf16-autocast"),
]


@pytest.mark.parametrize(("build", "settings"), MODELS)
def test_full_fine_tuning_is_bit_identical_with_the_capture(
    tmp_path: Path, build: Callable[[], Any], settings: dict[str, Any]
) -> None:
    """Also where positions are looked up once for all rows, and told apart by a view."""
    plain = _train(tmp_path / "plain", [], model=build().requires_grad_(True), **settings)
    watch = Captures()
    watched = _train(tmp_path / "watched", [watch], model=build().requires_grad_(True), **settings)
    assert len(watch.errors) == 6
    assert max(watch.errors) < (2e-2 if settings.get("bf16") else 1e-5), "it captured what the optimizer got"
    assert all(torch.equal(a, b) for a, b in zip(plain[0], watched[0], strict=True))
    assert plain[1] == watched[1]
    assert torch.equal(plain[2], watched[2])


@pytest.mark.parametrize(
    "settings", [{"gradient_accumulation_steps": 2}, {"bf16": True, "max_grad_norm": 0.1, "optim": "adamw_torch"}]
)
def test_training_is_bit_identical_with_an_audit_at_every_step(tmp_path: Path, settings: dict[str, Any]) -> None:
    plain = _train(tmp_path / "plain", [], **settings)
    config = tiny.tiny_config(tmp_path / "monitor") | {"audit": {"share": 1.0, "rows": ["row-000003", "row-000011"]}}
    callback = SMDACallback(config)
    watched = _train(tmp_path / "watched", [callback], **settings)
    assert callback.run is not None
    audits = callback.run.auditor.entries
    assert {a.step for a in audits} == set(range(1, 7))
    assert len({a.row_id for a in audits}) > 3
    assert all(torch.equal(a, b) for a, b in zip(plain[0], watched[0], strict=True))
    assert plain[1] == watched[1]
    assert torch.equal(plain[2], watched[2])


def test_training_is_bit_identical_under_a_budget_that_changes_the_probes(tmp_path: Path) -> None:
    """There is no room for a second open step, and not for twelve probes."""
    plain = _train(tmp_path / "plain", [])
    callback = SMDACallback(tiny.tiny_config(tmp_path / "monitor") | {"overhead": 0.5, "memory_gib": 1e-9})
    callback.clock = clock = ToldClock(prompt=0.04)
    watched = _train(tmp_path / "watched", [clock, callback])
    assert callback.run is not None
    accounts = callback.run.accounts
    first, *others = (len(a.probe_ids) for a in accounts)
    assert first == 12
    assert 8 <= min(others) == max(others) < 12
    assert len(accounts) >= 4
    assert max(a.balance("mass.harmful").unexplained_fraction for a in accounts) < 0.02, (
        "on the same probes at both ends"
    )
    assert all(torch.equal(a, b) for a, b in zip(plain[0], watched[0], strict=True))
    assert plain[1] == watched[1]
    assert torch.equal(plain[2], watched[2])


@pytest.mark.parametrize("by", ["backward", "replay"])
def test_training_is_bit_identical_with_watched_features_split_at_every_step(tmp_path: Path, by: str) -> None:
    settings = {"gradient_accumulation_steps": 2, "max_grad_norm": 0.1}
    plain = _train(tmp_path / "plain", [], **settings)
    config = tiny.tiny_config(tmp_path / "monitor") | {"account": {"watched_every": 1, "watched_by": by}}
    callback = SMDACallback(config)
    watched = _train(tmp_path / "watched", [callback], **settings)
    assert callback.run is not None
    assert [a.watched_by for a in callback.run.accounts] == [by] * 6
    assert all(any(push != (0, 0) for push in row.watched.values()) for a in callback.run.accounts for row in a.rows)
    assert all(torch.equal(a, b) for a, b in zip(plain[0], watched[0], strict=True))
    assert plain[1] == watched[1]
    assert torch.equal(plain[2], watched[2])


def test_the_comparison_can_fail(tmp_path: Path) -> None:
    plain = _train(tmp_path / "plain", [])
    disturbed = _train(tmp_path / "disturbed", [DrawsOneNumber()])
    assert not all(torch.equal(a, b) for a, b in zip(plain[0], disturbed[0], strict=True))


def _hooks(trainer: Any) -> list[tuple[int, int, bool]]:
    return [(len(m._forward_hooks), len(m._forward_pre_hooks), m.training) for m in trainer.model.modules()]


def test_hooks_and_modes_are_as_before(tmp_path: Path) -> None:
    plain = tiny.tiny_trainer(tmp_path / "plain", [], max_steps=2)
    callback = SMDACallback(tiny.tiny_config(tmp_path / "monitor"))
    watched = tiny.tiny_trainer(tmp_path / "watched", [callback], max_steps=2)
    during: list[Any] = []
    original = callback.on_step_end

    def look(*args: Any, **kwargs: Any) -> None:
        original(*args, **kwargs)
        during.append(_hooks(watched))

    callback.on_step_end = look  # type: ignore[method-assign]
    plain.train()
    watched.train()
    assert _hooks(watched) == _hooks(plain)
    assert during[0] != _hooks(plain), "the hooks were on while it trained"
