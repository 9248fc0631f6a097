"""Accounts over several steps, history handed on to earlier rows, and micro-batches of any size, in whole runs."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from test_run_resume import KillAfter, Killed, _train
from torch import Tensor
from transformers import TrainerCallback

from smda_monitor.callback import SMDACallback
from smda_monitor.maths.totals import missed_fraction, named_fraction, unexplained_of_probes
from smda_monitor.outputs.ledger_reader import read_accounts
from smda_monitor.records.account import StepAccount, is_leading

SMOOTH = ("S_Y", "mass", "contrast")
"""Readings without the gate's kinks: features of a random dictionary switch all the time."""


def train(folder: Path, account: dict[str, Any] | None, **settings: Any) -> tuple[list[StepAccount], list[Tensor]]:
    """The accounts of a run, none where `account` is None, and its final weights."""
    callbacks = []
    if account is not None:
        callbacks = [SMDACallback(tiny.tiny_config(folder / "monitor") | {"account": account})]
    trainer = tiny.tiny_trainer(folder, list(callbacks), dropout=0.1, **settings)
    trainer.train()
    weights = [p.detach().clone() for p in trainer.model.parameters()]
    run = callbacks[0].run if callbacks else None
    return (run.accounts if run is not None else []), weights


STEPS: dict[str, Any] = {
    "max_steps": 10, "save_strategy": "steps", "save_steps": 5, "weight_decay": 0.1, "learning_rate": 5e-4,
}  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The same training three times: with accounts of three steps, of one, and unmonitored."""
    folder = tmp_path_factory.mktemp("runs")
    intervals = train(folder / "intervals", {"every": 3}, **STEPS)
    each, plain = train(folder / "each", {"every": 1}, **STEPS), train(folder / "plain", None, **STEPS)
    return {"folder": folder, "intervals": intervals, "each": each, "plain": plain}


def test_accounts_cover_every_step_once_and_end_at_a_checkpoint(runs: dict[str, Any]) -> None:
    assert [(a.since, a.step) for a in runs["intervals"][0]] == [(0, 3), (3, 5), (5, 8), (8, 10)]
    assert [(a.since, a.step) for a in runs["each"][0]] == [(t - 1, t) for t in range(1, 11)]
    assert all(a.warm_up for a in runs["intervals"][0])


def test_what_is_open_at_the_end_is_accounted_for(tmp_path: Path) -> None:
    accounts, _ = train(tmp_path, {"every": 3}, max_steps=4)
    assert [(a.since, a.step) for a in accounts] == [(0, 3), (3, 4)]


def test_every_row_of_every_step_stands_once(runs: dict[str, Any]) -> None:
    def rows(accounts: list[StepAccount]) -> list[tuple[int, str, str, int]]:
        return [(r.step, r.row_id, r.row_hash, r.tokens) for a in accounts for r in a.rows]

    intervals = rows(runs["intervals"][0])
    assert intervals == rows(runs["each"][0])
    assert Counter(step for step, *_ in intervals) == dict.fromkeys(range(1, 11), 2)
    for account in runs["intervals"][0]:
        assert {row.step for row in account.rows} == set(range(account.since + 1, account.step + 1))


def test_measured_shifts_add_up_to_the_same(runs: dict[str, Any]) -> None:
    intervals, each = runs["intervals"][0], runs["each"][0]
    for name in [b.target for b in each[0].balances]:
        sums = [sum(a.balance(name).measured for a in accounts) for accounts in (intervals, each)]
        size = sum(abs(a.balance(name).measured) for a in each)
        assert sums[0] == pytest.approx(sums[1], abs=1e-5 * max(size, 1e-3)), name
        assert size > 0
    assert intervals[-1].drift == pytest.approx(each[-1].drift, abs=1e-5)
    assert intervals[-1].refusal == pytest.approx(each[-1].refusal, abs=1e-5)


def test_little_is_unexplained_and_shares_are_those_of_each_step(runs: dict[str, Any]) -> None:
    intervals, each = runs["intervals"][0], runs["each"][0]
    worst = 0.0
    for account in intervals:
        assert account.capture_error < 1e-5
        for balance in account.balances:
            if balance.target.startswith(SMOOTH):
                worst = max(worst, balance.unexplained_fraction)
    assert 0 < worst < 0.03
    for name in ("mass.harmful", "contrast.benign", "S_Y"):
        for kind in ("share", "push"):
            found, expected = (
                torch.tensor([getattr(r, kind)[name] for a in accounts for r in a.rows])
                for accounts in (intervals, each)
            )
            assert float((found - expected).norm() / expected.norm()) < 0.05, (name, kind)
        history, decay = (
            [sum(getattr(a.balance(name), part) for a in accounts) for accounts in (intervals, each)]
            for part in ("history", "decay")
        )
        assert history[0] == pytest.approx(history[1], rel=0.05)
        assert decay[0] == pytest.approx(decay[1], rel=0.05)
        assert history[0] != 0
        assert decay[0] != 0


def test_rows_wait_in_half_precision_where_those_of_an_interval_are_large(runs: dict[str, Any], tmp_path: Path) -> None:
    kinds: list[list[torch.dtype]] = []

    class Look(TrainerCallback):
        def on_optimizer_step(self, *_: Any, **__: Any) -> None:
            steps = [*monitor.run.accountant.open_steps, monitor.run.accountant.coming]  # type: ignore[union-attr]
            kinds.append([one.gradient.rows.matrix.dtype for one in steps if one])

    full, half = torch.float32, torch.bfloat16
    config = tiny.tiny_config(tmp_path / "monitor") | {"account": {"every": 3}}
    trainer = tiny.tiny_trainer(tmp_path, [], dropout=0.1, **STEPS)
    # Two rows of a step take 8 bytes a parameter in float32; all that three steps keep in halves takes 60.
    config["memory_gib"] = 80 * sum(w.numel() for w in trainer.model.parameters() if w.requires_grad) / 2**30
    monitor = SMDACallback(config)
    trainer.add_callback(monitor)
    trainer.add_callback(Look())
    trainer.train()
    assert monitor.run is not None
    assert kinds[:4] == [[full], [half, full], [half, half, full], [full]]
    found, expected = monitor.run.accounts, runs["intervals"][0]
    assert {account.rows_kept for account in found} == {"bfloat16"}, "the ledger says so"
    assert {account.rows_kept for account in expected} == {"float32"}
    for name in ("mass.harmful", "contrast.benign", "S_Y"):
        for kind in ("share", "push"):
            one, other = (
                torch.tensor([getattr(r, kind)[name] for a in accounts for r in a.rows])
                for accounts in (found, expected)
            )
            assert 0 < float((one - other).norm() / other.norm()) < 0.01, (name, kind)
        one, other = (torch.tensor([a.balance(name).unexplained for a in accounts]) for accounts in (found, expected))
        moved = sum(abs(r.share[name]) for a in expected for r in a.rows)
        assert float((one - other).abs().sum()) < 5e-3 * moved, "the accounts still close"


def test_rows_of_the_last_step_are_read_on_their_own_prompts_as_if_alone(runs: dict[str, Any]) -> None:
    """Own prompts are read at the account's end: where that is the row's own step, nothing is different."""
    alone = {(r.step, r.row_hash): r for a in runs["each"][0] for r in a.rows}
    last = [r for a in runs["intervals"][0] for r in a.rows if r.step == a.step]
    assert len(last) == 8
    for row in last:
        other = alone[row.step, row.row_hash]
        for name in ("own_push", "own_mass", "own_predicted", "expected"):
            assert getattr(row, name) == pytest.approx(getattr(other, name), rel=1e-3, abs=1e-6), name
    earlier = [r for a in runs["intervals"][0] for r in a.rows if r.step < a.step]
    masses = [(r.own_mass, alone[r.step, r.row_hash].own_mass) for r in earlier]
    assert any(a != pytest.approx(b, rel=1e-3, abs=1e-6) for a, b in masses), "the others a little later than alone"
    found, expected = (
        torch.tensor([r.own_push for r in rows]) for rows in (earlier, [alone[r.step, r.row_hash] for r in earlier])
    )
    assert float((found - expected).norm() / expected.norm()) < 0.1


def test_figures_by_probe_are_those_of_the_targets(runs: dict[str, Any]) -> None:
    """Rows and momentum say the same of the mean over a kind as of its probes."""
    for account in runs["intervals"][0]:
        assert all(0 < unexplained_of_probes(account, reading) < 0.05 for reading in ("mass", "contrast"))
        assert unexplained_of_probes(account, "explained") > 0
        assert len(account.probes["mass.measured"]) == 12


def test_the_monitor_is_invisible_with_intervals_too(runs: dict[str, Any]) -> None:
    for name in ("intervals", "each"):
        assert all(torch.equal(a, b) for a, b in zip(runs[name][1], runs["plain"][1], strict=True))
    start = [p.detach() for p in tiny.tiny_lora(tiny.tiny_llama(), 0.1).parameters()]
    assert not all(torch.equal(a, b) for a, b in zip(start, runs["plain"][1], strict=True)), "it trained"


def rounded(lists: dict[str, tuple[float, ...]]) -> dict[str, tuple[float, ...]]:
    """As the ledger keeps lists, in float32."""
    return {name: tuple(float(np.float32(value)) for value in values) for name, values in lists.items()}


def test_the_ledger_returns_the_accounts_as_they_were(runs: dict[str, Any]) -> None:
    for name in ("intervals", "each"):
        accounts = runs[name][0]
        expected = [
            replace(
                a,
                probes=rounded(a.probes),
                rows=tuple(
                    replace(r, probe_share=rounded(r.probe_share), probe_push=rounded(r.probe_push)) for r in a.rows
                ),
            )
            for a in accounts
        ]
        # Without reference answers a row's reading is NaN, which no comparison takes for equal.
        assert repr(read_accounts(runs["folder"] / name / "monitor" / "run")) == repr(expected)
        assert any(a.past for a in accounts)


def test_a_resumed_run_goes_on_with_its_intervals(tmp_path: Path) -> None:
    """Killed with step 4 open; its checkpoint of step 3 closed an account."""
    config = tiny.tiny_config(tmp_path / "run") | {"account": {"every": 2}}
    with pytest.raises(Killed):
        _train(tmp_path / "t", tmp_path / "run", [KillAfter(4)], config=config)
    assert [(a.since, a.step) for a in read_accounts(tmp_path / "run" / "run")] == [(0, 2), (2, 3)]
    _train(tmp_path / "t", tmp_path / "run", [], resume=True, config=config)
    accounts = read_accounts(tmp_path / "run" / "run")
    assert [(a.since, a.step) for a in accounts] == [(0, 2), (2, 3), (3, 5), (5, 6)]
    assert Counter(r.step for a in accounts for r in a.rows) == dict.fromkeys(range(1, 7), 2)
    assert {p.step for p in accounts[2].past} == {4}, "a resumed run begins with no row of before"
    assert {p.step for p in accounts[3].past} == {4, 5}


class Clock(TrainerCallback):
    """What the monitor says it took, when training begins and before it ends."""

    def __init__(self, monitor: SMDACallback) -> None:
        self.monitor = monitor
        self.seen: list[float] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 0:
            self.on_train_end(args, state, control)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        assert self.monitor.run is not None
        self.seen.append(self.monitor.run.monitor_seconds)


def test_time_spent_at_checkpoints_is_the_monitors_too(tmp_path: Path) -> None:
    """All accounts of this run are closed by a checkpoint."""
    monitor = SMDACallback(tiny.tiny_config(tmp_path / "monitor") | {"account": {"every": 99}})
    clock = Clock(monitor)
    tiny.tiny_trainer(tmp_path, [clock, monitor], max_steps=4, save_strategy="steps", save_steps=1).train()
    assert monitor.run is not None
    assert [(a.since, a.step) for a in monitor.run.accounts] == [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert clock.seen[1] - clock.seen[0] > sum(a.seconds for a in monitor.run.accounts)


# history


def named(accounts: list[StepAccount], target: str) -> float:
    return named_fraction(a.balance(target) for a in accounts)


@pytest.fixture(scope="module")
def histories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[StepAccount]]:
    """16 steps whose momentum is handed on to the rows of 24 earlier steps, of 2, of none, and as memory allows."""
    settings = {"max_steps": 16, "weight_decay": 0.01, "learning_rate": 5e-4}
    choices = {
        "all": {"history_steps": 24},
        "two": {"history_steps": 2},
        "none": {"history_steps": 0},
        "no memory": {"history_gib": 0.0},
    }
    return {
        name: train(tmp_path_factory.mktemp("history") / "run", account, **settings)[0]
        for name, account in choices.items()
    }


def test_momentum_is_handed_on_to_the_rows_it_comes_from(histories: dict[str, list[StepAccount]]) -> None:
    targets = [b.target for b in histories["all"][0].balances if b.target.startswith("mass.")]
    assert len(targets) > 3, "kinds and categories"
    for target in targets:
        assert named(histories["all"], target) > 0.99
        assert named(histories["none"], target) < (0.9 if is_leading(target) else 0.95)
        assert named(histories["none"], target) < named(histories["two"], target) < named(histories["all"], target)
    for account in histories["none"] + histories["no memory"]:
        assert account.past == ()
        assert all(b.handed == b.absolute_handed == 0 for b in account.balances)


@pytest.mark.parametrize("run", ["all", "two", "none"])
def test_the_accounts_add_up_to_the_last_snapshot_minus_the_first(
    histories: dict[str, list[StepAccount]], run: str
) -> None:
    accounts = histories[run]
    for target in ("S_Y", "mass.harmful", "mass.lookalike", "mass.benign", "contrast.harmful"):
        balances = [a.balance(target) for a in accounts]
        kind = target.partition(".")[2]
        ends = accounts[-1].refusal.get(target, 0.0) - accounts[0].refusal.get(target, 0.0)
        assert not kind or sum(b.measured for b in balances[1:]) == pytest.approx(ends, abs=1e-5)
        assert missed_fraction(balances) < 0.02, target
        assert missed_fraction([replace(balances[0], shares=9.0), *balances[1:]]) > 0.02, "it can fail"


def test_memory_that_holds_fewer_steps_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "smda_monitor"):
        accounts, _ = train(tmp_path, {"history_steps": 24, "history_gib": 2e-5}, max_steps=12)
    (told,) = [record.message for record in caplog.records if "history_gib" in record.message]
    kept = len({p.step for p in accounts[-1].past})
    assert 0 < kept < 11
    assert f"found the rows of the last {kept} steps, which fit into 2e-05 GiB; expected those of {kept + 1}" in told
    assert named(accounts, "mass.harmful") < 1


def test_all_of_history_is_handed_on_while_every_earlier_row_is_known(histories: dict[str, list[StepAccount]]) -> None:
    for account in histories["all"]:
        names = Counter((p.step, p.row_hash) for p in account.past)
        earlier = [a for a in histories["all"] if a.step < account.step]
        assert names == Counter((r.step, r.row_hash) for a in earlier for r in a.rows)
        for balance in account.balances:
            assert abs(balance.handed - balance.history) <= 0.005 * balance.absolute_handed, "half precision"
        for target in account.past[0].share if account.past else ():
            assert sum(p.share[target] for p in account.past) == pytest.approx(account.balance(target).handed, abs=1e-9)
    assert {p.step for p in histories["two"][9].past} == {8, 9}
    assert histories["all"][9].balance("mass.harmful").history != 0
    for one, other in zip(histories["all"], histories["none"], strict=True):
        for a, b in zip(one.balances, other.balances, strict=True):
            assert a.history == pytest.approx(b.history, rel=1e-6, abs=1e-9), "what is handed on is still in it"


# micro-batches


def test_the_same_rows_in_any_micro_batches_give_the_same_figures(tmp_path: Path) -> None:
    """Eight rows to a step: as one batch, as two of four and as four of two."""
    found = {}
    for size in (8, 4, 2):
        callback = SMDACallback(tiny.tiny_config(tmp_path / f"monitor-{size}"))
        tiny.tiny_trainer(
            tmp_path / str(size),
            [callback],
            max_steps=3,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=8 // size,
            max_grad_norm=0.5,
        ).train()
        assert callback.run is not None
        found[size] = callback.run.accounts
    for size in (4, 2):
        for one, other in zip(found[8], found[size], strict=True):
            assert [r.row_hash for r in one.rows] == [r.row_hash for r in other.rows]
            assert other.clip_factor == pytest.approx(one.clip_factor, rel=1e-4)
            assert one.clip_factor < 1
            for target in ("mass.harmful", "contrast.benign", "S_Y"):
                for kind in ("share", "push"):
                    a, b = (torch.tensor([getattr(r, kind)[target] for r in x.rows]) for x in (one, other))
                    assert float((a - b).norm() / a.norm()) < 5e-3, (size, one.step, target, kind)
                a, b = one.balance(target), other.balance(target)
                assert b.measured == pytest.approx(a.measured, rel=5e-3, abs=1e-5)
                assert b.history == pytest.approx(a.history, rel=5e-3, abs=1e-5)
