"""Accounts of optimizers that the package does not know: by replay, exact, and as invisible as the others."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from strange_optimizers import Homemade, Lion
from twin import TwinReplayer

from smda_monitor.callback import SMDACallback
from smda_monitor.outputs.ledger_reader import read_accounts


def adafactor(parameters: Any) -> Any:
    from transformers.optimization import Adafactor

    return Adafactor(parameters, lr=1e-3, scale_parameter=False, relative_step=False, beta1=0.9, weight_decay=0.1)


def eight_bits(parameters: Any) -> Any:
    from bitsandbytes.optim import AdamW8bit

    return AdamW8bit(parameters, lr=1e-3, weight_decay=0.1, min_8bit_size=1)


MAKERS = {
    "Homemade": lambda parameters: Homemade(parameters, lr=0.1),
    "Lion": lambda parameters: Lion(parameters, lr=1e-3),
    "Adafactor": adafactor,
    "AdamW8bit": eight_bits,
}


def trained(folder: Path, make: Callable[[Any], Any], callbacks: list[Any], **settings: Any) -> Any:
    known = {"max_steps": 4, "gradient_accumulation_steps": 2, "max_grad_norm": 0.5, **settings}
    trainer = tiny.tiny_trainer(folder, callbacks, **known)
    trainer.optimizer = make([p for p in trainer.model.parameters() if p.requires_grad])
    trainer.train()
    return trainer


@pytest.mark.parametrize("name", MAKERS)
def test_push_is_that_of_an_independent_replay(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    asked = {"audit": {"rows": [f"row-{i:06d}" for i in range(24)]}}
    monitor = SMDACallback(tiny.tiny_config(tmp_path / "m") | asked)
    twin = TwinReplayer(monitor)
    trained(tmp_path, MAKERS[name], [twin, monitor])
    run = monitor.run
    assert run is not None
    (line,) = [record.message for record in caplog.records if "by replay" in record.message]
    assert name in line
    assert "torch.optim.AdamW" in line
    assert "account.every" not in line
    assert [a.method for a in run.accounts] == ["replay"] * 4
    for account in run.accounts:
        assert len(account.rows) == 4
        assert 0 < account.clip_factor <= 1.0 + 1e-6
        assert account.capture_error < 1e-5
        noise = {a.row_id: a.noise for a in run.auditor.entries if a.step == account.step}
        for k, balance in enumerate(account.balances):
            truth = twin.push[account.step][:, k].tolist()
            found = [row.push[balance.target] for row in account.rows]
            floor = max(n[balance.target] for n in noise.values())
            assert found == pytest.approx(truth, abs=2 * floor)
            assert max(map(abs, truth)) > 3 * floor, "else anything would be right"
            assert found == [row.share[balance.target] for row in account.rows]
            assert balance.history == pytest.approx(float(twin.alone[account.step][k]), abs=2 * floor)
            assert balance.decay == 0
    histories = [abs(b.history) for a in run.accounts[1:] for b in a.balances]
    assert min(histories) > 0, "momentum and decay act on a zero gradient"


def test_an_interval_asked_for_in_vain_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    monitor = SMDACallback(tiny.tiny_config(tmp_path / "m") | {"account": {"every": 3}})
    trained(tmp_path, MAKERS["Adafactor"], [monitor], max_steps=1)
    (line,) = [record.message for record in caplog.records if "by replay" in record.message]
    assert "account.every: 3 is for others" in line


@pytest.mark.parametrize("name", MAKERS)
def test_weights_are_bit_identical_with_and_without_the_monitor(tmp_path: Path, name: str) -> None:
    monitor = SMDACallback(tiny.tiny_config(tmp_path / "m"))
    ends = []
    for folder, callbacks in (("plain", []), ("watched", [monitor])):
        torch.manual_seed(0)
        trainer = trained(tmp_path / folder, MAKERS[name], callbacks)
        optimizer = trainer.optimizer.optimizer
        own = (getattr(optimizer, "taken", None), getattr(optimizer, "norms", None))
        ends.append(([p.detach().clone() for p in trainer.model.parameters()], torch.get_rng_state(), own))
    assert monitor.run is not None
    assert len(monitor.run.accounts) == 4
    assert all(torch.equal(a, b) for a, b in zip(ends[0][0], ends[1][0], strict=True))
    assert torch.equal(ends[0][1], ends[1][1])
    assert ends[0][2] == ends[1][2]


def test_the_eight_bit_optimizer_keeps_eight_bits(tmp_path: Path) -> None:
    optimizer = trained(tmp_path, MAKERS["AdamW8bit"], [], max_steps=1).optimizer.optimizer
    kinds = {state[name].dtype for state in optimizer.state.values() for name in ("state1", "state2")}
    assert kinds == {torch.uint8}


def test_the_method_is_kept_and_shown(tmp_path: Path) -> None:
    monitor = SMDACallback(tiny.tiny_config(tmp_path / "m"))
    trained(tmp_path, MAKERS["Lion"], [monitor], max_steps=2)
    folder = tmp_path / "m" / "run"
    assert [a.method for a in read_accounts(folder)] == ["replay", "replay"]
    assert "accounts are made by replay" in (folder / "report.html").read_text()
    rows = read_accounts(folder)[1].rows
    assert any(row.dominant_feature >= 0 for row in rows), "dots by probe come from the replay"
    assert all(row.own_push == row.own_push for row in rows)
    assert json.loads((folder / "summary.json").read_text())["audit"]["rows"] == 0, "there is nothing to audit"


def test_rows_that_do_not_interact_leave_nothing_unexplained(tmp_path: Path) -> None:
    """Plain gradient descent under another name: its replay balances as its split does."""

    class Renamed(torch.optim.SGD):
        pass

    monitor = SMDACallback(tiny.tiny_config(tmp_path / "m"))
    trained(tmp_path, lambda p: Renamed(p, lr=1e-3), [monitor], max_grad_norm=0.0)
    assert monitor.run is not None
    for account in monitor.run.accounts:
        assert account.method == "replay"
        for balance in account.balances:
            assert balance.history == 0
            assert balance.target.startswith(("S_X", "explained")) or balance.unexplained_fraction < 0.05


def test_a_step_without_gradient_is_named(tmp_path: Path) -> None:
    from transformers import TrainerCallback

    class Erases(TrainerCallback):
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            for parameter in kwargs["model"].parameters():
                if parameter.grad is not None:
                    parameter.grad.zero_()

    from smda_monitor.errors import MeasurementError

    with pytest.raises(MeasurementError, match=r"capture: found rows' gradients that miss 100.*What to do"):
        trained(tmp_path, MAKERS["Lion"], [Erases(), SMDACallback(tiny.tiny_config(tmp_path / "m"))])
