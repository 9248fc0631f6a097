"""Watched features through whole runs: what is measured, when it is split, among whom, and what the ledger keeps."""

from __future__ import annotations

import atexit
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from strange_optimizers import Lion
from transformers import TrainerCallback
from twin import TwinReplayer

from smda_monitor.callback import SMDACallback
from smda_monitor.maths.pathways import output_shift
from smda_monitor.outputs.ledger_reader import read_accounts
from smda_monitor.records.account import StepAccount


def trained(
    folder: Path,
    account: dict[str, Any],
    callbacks: tuple[TrainerCallback, ...] = (),
    optimizer: Any = None,
    outputs: dict[str, Any] | None = None,
    **settings: Any,
) -> Any:
    config = tiny.tiny_config(folder / "m", **(outputs or {})) | {"account": account}
    monitor = SMDACallback(config)
    resume = settings.pop("resume", None)
    trainer = tiny.tiny_trainer(folder, [*callbacks, monitor], **{"max_steps": 4, **settings})
    if optimizer is not None:
        trainer.optimizer = optimizer([p for p in trainer.model.parameters() if p.requires_grad])
    try:
        trainer.train(resume_from_checkpoint=resume)
    finally:
        atexit.unregister(monitor.close)
    assert monitor.run is not None
    return monitor.run


def pushes(account: StepAccount) -> torch.Tensor:
    """(n, K, 2) of the rows that are split."""
    return torch.tensor([list(row.watched.values()) for row in account.rows if row.watched], dtype=torch.float64)


def test_watched_features_are_measured_always_and_split_in_turn(tmp_path: Path) -> None:
    asked = {"watched_features": 5, "watched_drifting": 3, "watched_every": 2}
    run = trained(tmp_path, asked, outputs={"leading_features": 48}, max_steps=5)
    accounts, policy = run.accounts, run.instruments.policy
    assert [a.watched_by for a in accounts] == ["", "replay", "", "replay", ""]
    size = policy.coef.abs() * policy.X.double().std(0)
    leading = [policy.feature_ids[k] for k in size.argsort(descending=True)[:5].tolist()]
    chosen = [[shift.feature for shift in a.watched] for a in accounts]
    assert all(ids[:5] == leading for ids in chosen)
    assert chosen[0] == leading, "none is known to drift before the first split"
    assert chosen[1] == chosen[2]
    for account, ids in ((a, c) for a, c in zip(accounts, chosen, strict=True) if a.watched_by):
        moved = {f: abs(d * float(w)) for f, d, w in zip(policy.feature_ids, account.drift, policy.coef, strict=True)}
        others = sorted((f for f in moved if f not in leading), key=lambda f: -moved[f])
        assert ids[5:] == others[:3]
        assert all(list(row.watched) == ids for row in account.rows)
    for account in accounts:
        everyone = {shift.feature: shift for shift in account.features}
        assert all(everyone[shift.feature] == shift for shift in account.watched)
        assert account.watched_by or not any(row.watched for row in account.rows)
    kept = read_accounts(tmp_path / "m" / "run")
    for a, b in zip(kept, accounts, strict=True):
        assert (a.watched, a.watched_by) == (b.watched, b.watched_by)
        assert [row.watched for row in a.rows] == [row.watched for row in b.rows]


def test_rows_add_up_to_what_was_measured_under_plain_descent(tmp_path: Path) -> None:
    """Without momentum, decay and clipping, pushes are shares, and those of all rows are the step."""
    settings = {"optim": "sgd", "learning_rate": 1e-3, "max_grad_norm": 0.0, "gradient_accumulation_steps": 2}
    for by in ("backward", "replay"):
        run = trained(tmp_path / by, {"watched_every": 1, "watched_by": by}, **settings)
        for account in run.accounts:
            assert account.watched_by == by
            total = pushes(account).sum(0)
            measured = torch.tensor([[s.shift_X, s.shift_Y] for s in account.watched], dtype=torch.float64)
            assert total.shape == (24, 2)
            missed = (total - measured).abs().sum(0) / pushes(account).abs().sum((0, 1))
            assert missed[0] < 0.15, "finite effects need not add up"
            assert missed[1] < 0.02
            without = (pushes(account)[1:].sum(0) - measured).abs().sum(0) / pushes(account).abs().sum((0, 1))
            assert float(without.min()) > 2 * float(missed.max()), "no row can be spared"


def test_pushes_by_replay_are_those_of_an_independent_one(tmp_path: Path) -> None:
    """Through feature activation from the twin's features, through output probability from its y."""

    class Keeps(TwinReplayer):
        def __init__(self, monitor: SMDACallback) -> None:
            super().__init__(monitor)
            self.features: dict[int, torch.Tensor] = {}

        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.seen: list[torch.Tensor] = []
            super().on_pre_optimizer_step(args, state, control, **kwargs)
            whole, *without, _ = self.seen
            self.features[state.global_step + 1] = torch.stack([whole - X for X in without])

        def _measured(self, *given: Any) -> Any:
            snapshot, own = super()._measured(*given)
            self.seen.append(snapshot.X.double())
            return snapshot, own

    for optimizer in (None, lambda p: Lion(p, lr=1e-3)):
        folder = tmp_path / ("known" if optimizer is None else "unknown")
        config = tiny.tiny_config(folder / "m") | {"account": {"watched_every": 1}}
        monitor = SMDACallback(config)
        twin = Keeps(monitor)
        trainer = tiny.tiny_trainer(folder, [twin, monitor], max_steps=3, max_grad_norm=0.5)
        if optimizer is not None:
            trainer.optimizer = optimizer([p for p in trainer.model.parameters() if p.requires_grad])
        trainer.train()
        run = monitor.run
        assert run is not None
        plan, frame = run.instruments.plan, run.instruments.frame
        places = {feature: k for k, feature in enumerate(run.instruments.policy.feature_ids)}
        for account in run.accounts:
            assert account.watched_by == "replay"
            assert account.method == ("split" if optimizer is None else "replay")
            columns = [places[shift.feature] for shift in account.watched]
            residual, weights = frame.r[plan.rows] * plan.weights, plan.weights
            for i, found in enumerate(pushes(account)):
                delta_X = twin.features[account.step][i]
                spread = frame.Xc[plan.rows].T @ (weights * (delta_X @ frame.w))
                shift_X = frame.factor.solve(delta_X.T @ residual - spread)[columns]
                assert (found[:, 0] - shift_X).norm() < 0.02 * shift_X.norm()
                shift_Y = output_shift(frame, plan.rows, twin.delta_y[account.step][i], weights)[columns]
                assert (found[:, 1] - shift_Y).norm() < 0.05 * shift_Y.norm()
            apart = (pushes(account)[0] - pushes(account)[1]).norm() / pushes(account)[0].norm()
            assert apart > 0.1, "rows differ"


def test_in_an_interval_the_last_steps_rows_are_split(tmp_path: Path) -> None:
    run = trained(tmp_path, {"every": 3, "watched_every": 1}, max_steps=5)
    assert [(a.since, a.step) for a in run.accounts] == [(0, 3), (3, 5)]
    for account in run.accounts:
        assert [bool(row.watched) for row in account.rows] == [row.step == account.step for row in account.rows]
        assert any(row.step != account.step for row in account.rows)


@pytest.mark.parametrize("account", [{"watched_every": 0}, {"watched_features": 0, "watched_drifting": 0}])
def test_nothing_is_split_where_nothing_is_asked(tmp_path: Path, account: dict[str, Any]) -> None:
    run = trained(tmp_path, {"watched_every": 1, **account}, max_steps=2)
    assert [len(a.watched) for a in run.accounts] == [account.get("watched_features", 16)] * 2
    assert all(a.watched_by == "" and not any(row.watched for row in a.rows) for a in run.accounts)


def test_a_resumed_run_watches_what_the_unbroken_one_does(tmp_path: Path) -> None:
    class Stop(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_training_stop = state.global_step == 3

    asked = {"watched_every": 2, "watched_features": 4, "watched_drifting": 3}
    saving = {"save_strategy": "steps", "save_steps": 3, "max_steps": 5}
    whole = trained(tmp_path / "whole", asked, **saving)
    trained(tmp_path / "broken", asked, (Stop(),), **saving)
    checkpoint = str(tmp_path / "broken" / "trainer" / "checkpoint-3")
    broken = trained(tmp_path / "broken", asked, resume=checkpoint, **saving)
    assert [a.step for a in broken.accounts] == [1, 2, 3, 4, 5]
    assert [a.watched_by for a in broken.accounts] == [a.watched_by for a in whole.accounts]
    for a, b in zip(whole.accounts, broken.accounts, strict=True):
        assert [s.feature for s in a.watched] == [s.feature for s in b.watched]
    assert torch.allclose(pushes(whole.accounts[3]), pushes(broken.accounts[3]), rtol=1e-3, atol=1e-7)
