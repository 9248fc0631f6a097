"""The push of a row equals the step with it minus the step without it, replayed exactly; the account balances."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch
from scipy.stats import spearmanr
from twin import TwinReplayer

from smda_monitor.callback import SMDACallback
from smda_monitor.maths.by_kind import readings_by_kind
from smda_monitor.records.account import is_leading


@pytest.mark.parametrize("max_grad_norm", [0.0, 100.0, 0.05], ids=["no clipping", "idle", "biting"])
def test_push_equals_exact_replay(tmp_path: Path, max_grad_norm: float) -> None:
    monitor = SMDACallback(tiny.tiny_config(tmp_path / "monitor"))
    twin = TwinReplayer(monitor, from_step=8, own=True)
    trainer = tiny.tiny_trainer(
        tmp_path,
        [twin, monitor],
        max_steps=10,
        gradient_accumulation_steps=2,
        max_grad_norm=max_grad_norm,
        learning_rate=5e-4,
        lr_scheduler_type="constant",
        per_device_train_batch_size=4,
    )
    trainer.train()
    assert monitor.run is not None
    checked = 0
    for account in monitor.run.accounts:
        if account.step not in twin.push:
            continue
        assert (account.clip_factor < 0.9) == (max_grad_norm == 0.05)
        own = torch.tensor([row.own_push for row in account.rows], dtype=torch.float64)
        assert float((own / twin.own_push[account.step] - 1).abs().median()) < 0.05
        assert spearmanr(own, twin.own_push[account.step]).statistic > 0.97
        for k, balance in enumerate(account.balances):
            truth = twin.push[account.step][:, k]
            push = torch.tensor([row.push[balance.target] for row in account.rows], dtype=torch.float64)
            # The gate's kinks: features of a random dictionary switch all the time.
            if balance.target.startswith(("S_X", "explained")):
                assert spearmanr(push, truth).statistic > 0.7
                continue
            if not is_leading(balance.target):
                continue
            assert spearmanr(push, truth).statistic > 0.97
            assert float(((push - truth).abs() / truth.abs().median()).median()) < 0.05
            checked += 1
    assert checked == 21


def test_plain_gradient_descent_is_accounted_for_too(tmp_path: Path) -> None:
    monitor = SMDACallback(tiny.tiny_config(tmp_path / "monitor"))
    trainer = tiny.tiny_trainer(tmp_path, [monitor], max_steps=4, optim="sgd", weight_decay=0.1, learning_rate=0.01)
    trainer.train()
    assert monitor.run is not None
    for account in monitor.run.accounts:
        for balance in account.balances:
            assert balance.history == 0, "no momentum"
            assert balance.shares != 0
            assert balance.decay != 0
            assert balance.target.startswith(("S_X", "explained")) or balance.unexplained_fraction < 0.02


def test_the_account_balances_and_adds_up(tmp_path: Path) -> None:
    monitor = SMDACallback(tiny.tiny_config(tmp_path / "monitor"))
    trainer = tiny.tiny_trainer(tmp_path, [monitor], max_steps=16, weight_decay=0.1, learning_rate=5e-4)
    trainer.train()
    run = monitor.run
    assert run is not None
    for account in run.accounts:
        assert account.capture_error < 1e-5
        for balance in account.balances:
            assert balance.decay != 0.0
            if not balance.target.startswith(("S_X", "explained")):
                assert balance.unexplained_fraction < 0.02
    for name in ("mass.harmful", "contrast.benign"):
        total = sum(account.balance(name).measured for account in run.accounts)
        probes = run.instruments.bench.probes
        start, end = run.instruments.plan.part(run.first), run.instruments.plan.part(run.last)
        moved = readings_by_kind(end, probes)[0][name] - readings_by_kind(start, probes)[0][name]
        assert total == pytest.approx(moved, rel=1e-3, abs=1e-4)
    shares = sum(abs(run.accounts[5].balance(n).history) for n in ("mass.harmful", "mass.benign"))
    assert shares > 0, "momentum must be seen, else the balance is a weaker claim"
