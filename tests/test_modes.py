"""Every cell of the table of modes, in a real SFTTrainer: invisible and accounted for, or refused before step 1."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import modes
import numpy as np
import pytest
import tiny
import torch
from modes import CELLS, Cell
from transformers import TrainerCallback

from smda_monitor.callback import SMDACallback
from smda_monitor.errors import PrerequisiteError, SMDAError
from smda_monitor.instruments.trainer_mode import check_trainer_mode
from smda_monitor.maths.split import SLAB, directions
from smda_monitor.outputs.ledger_reader import read_ledger

STEPS, BREAKS = 5, 4
SUPPORTED = [cell for cell in CELLS if not (cell.refused or cell.untested or cell.held_by)]
REFUSED = [cell for cell in CELLS if cell.refused and cell.arguments is None and not cell.held_by]
BY_ARGUMENTS = [cell for cell in CELLS if cell.refused and cell.arguments is not None]


class Breaks(TrainerCallback):
    """The monitor fails at a step."""

    def __init__(self, monitor: SMDACallback, step: int) -> None:
        self.monitor, self.step = monitor, step

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step + 1 == self.step:
            assert self.monitor.run is not None
            assert self.monitor.run.accountant.capture is not None
            self.monitor.run.accountant.capture.clear()


class Parts(TrainerCallback):
    """Behind the monitor: how far the parts of every step miss what the optimizer did to weights in float32, beyond the
    two roundings (decay, step) in which these are kept. They are taken off element by element: all together may be
    more than what a wrong part misses."""

    def __init__(self, monitor: SMDACallback) -> None:
        self.monitor = monitor
        self.errors: list[float] = []
        self.before = torch.zeros(0)

    def weights(self) -> torch.Tensor:
        assert self.monitor.run is not None
        parameters = self.monitor.run.accountant.parameters
        return parameters.flatten([w.detach() for w in parameters.weights])

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.before = self.weights()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        assert self.monitor.run is not None
        assert self.monitor.run.accountant.coming is not None
        taken, update = self.monitor.run.accountant.coming.taken, self.weights().double() - self.before
        if taken is not None and self.before.dtype == torch.float32:
            found = [directions(taken.gradient, part, start, stop) for _, start, stop, part in taken.step.slabs(SLAB)]
            parts = torch.cat([one.shares.sum(0) + one.history + one.decay for one in found])
            rounding = torch.finfo(torch.float32).eps * self.before.double().abs()
            missed = ((parts - update).abs() - rounding).clamp(min=0)
            self.errors.append(float(missed.norm() / update.norm()))


class DrawsOneNumber(TrainerCallback):
    """A measurement that samples."""

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        torch.rand(1)


def trained(cell: Cell, folder: Path, *callbacks: Any, times: int = 1) -> tuple[list[torch.Tensor], list[Any], Any]:
    """Weights, log and random states after so many trainings: torch's and NumPy's; from Python's own the type checks of
    the suite draw."""
    torch.manual_seed(0)
    trainer = cell.trainer(folder, list(callbacks), STEPS)
    for _ in range(times):
        trainer.train()
    log = [{k: v for k, v in entry.items() if "loss" in k or "grad_norm" in k} for entry in trainer.state.log_history]
    numpy_state = np.random.get_state(legacy=True)
    states = torch.get_rng_state().tolist(), numpy_state[1].tolist(), numpy_state[2:]
    return [p.detach().clone() for p in trainer.model.parameters()], log, states


def equal(one: Any, two: Any) -> bool:
    same = all(torch.equal(a, b) for a, b in zip(one[0], two[0], strict=True))
    return same and one[1:] == two[1:]


@pytest.mark.parametrize("cell", SUPPORTED, ids=lambda cell: cell.name)
def test_training_is_as_without_the_monitor(tmp_path: Path, cell: Cell) -> None:
    plain = trained(cell, tmp_path / "plain")
    config = tiny.tiny_config(tmp_path / "files")
    config["behaviour"] |= cell.monitor
    every_step, last = SMDACallback(config), cell.ends or STEPS
    parts = Parts(every_step)
    assert equal(plain, trained(cell, tmp_path / "every", every_step, parts))
    assert every_step.run is not None
    accounts = every_step.run.accounts
    assert [account.step for account in accounts] == list(range(1, last + 1))
    assert max(account.capture_error for account in accounts) < cell.error
    assert all(account.rows and account.balance("S_Y").absolute_shares > 0 for account in accounts)
    split = "optim" not in cell.settings
    assert {account.method for account in accounts} == {"split" if split else "replay"}
    assert len(parts.errors) == (last if split and parts.before.dtype == torch.float32 else 0)
    assert all(error < 1e-6 for error in parts.errors), "rows, momentum and decay are the whole update"

    apart = {"outputs": {**config["outputs"], "folder": str(tmp_path / "third")}, "account": {"every": 3}}
    of_three = SMDACallback({**config, **apart, "on_error": "warn"})
    assert equal(plain, trained(cell, tmp_path / "three", Breaks(of_three, BREAKS), of_three))
    assert ("MeasurementError" in str(of_three.error)) == (last > BREAKS)
    assert of_three.run is not None
    # One account, but for those that end at a checkpoint before, and of one step each by replay.
    covered = [(account.since, account.step) for account in of_three.run.accounts]
    assert [since for since, _ in covered] == [0, *(step for _, step in covered[:-1])]
    assert covered[-1][1] == (2 if "save_steps" in cell.settings else 3)


def test_train_is_called_twice(tmp_path: Path) -> None:
    cell, config = SUPPORTED[0], tiny.tiny_config(tmp_path / "files", exists="move_aside")
    callback = SMDACallback(config)
    plain = trained(cell, tmp_path / "plain", times=2)
    assert equal(plain, trained(cell, tmp_path / "watched", callback, times=2))
    assert not equal(plain, trained(cell, tmp_path / "once"))
    folder = Path(config["outputs"]["folder"])
    runs = [read_ledger(one) for one in (folder, folder.with_name("run.1"))]
    assert [[account.step for account in run.accounts] for run in runs] == [list(range(1, STEPS + 1))] * 2


def test_the_comparison_can_fail(tmp_path: Path) -> None:
    cell = SUPPORTED[0]
    assert not equal(trained(cell, tmp_path / "plain"), trained(cell, tmp_path / "other", DrawsOneNumber()))


@pytest.mark.filterwarnings(
    "ignore:`(label_smoothing_factor|compute_loss_func|use_liger_kernel=True)` is deprecated:FutureWarning",
    "ignore:`torch.jit.script_method` is deprecated:DeprecationWarning",
)
@pytest.mark.parametrize("cell", REFUSED, ids=lambda cell: cell.name)
def test_what_is_not_accounted_for_is_refused(tmp_path: Path, cell: Cell) -> None:
    config = tiny.tiny_config(tmp_path / "files")
    trainer = cell.trainer(tmp_path, [SMDACallback(config)], 1)
    before = [p.detach().clone() for p in trainer.model.parameters()]
    with pytest.raises(SMDAError, match=r"(?s)found .*expected .*What to do") as error:
        trainer.train()
    assert re.search(cell.refused, str(error.value)), str(error.value)
    assert isinstance(error.value, PrerequisiteError)
    assert trainer.state.global_step == 0
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True))
    assert cell.late or not Path(config["outputs"]["folder"]).exists(), "the run folder is not touched"


@pytest.mark.parametrize("cell", BY_ARGUMENTS, ids=lambda cell: cell.name)
def test_what_the_arguments_say_is_refused(tmp_path: Path, cell: Cell) -> None:
    assert cell.arguments is not None
    with pytest.raises(PrerequisiteError, match=r"(?s)found .*expected .*What to do") as error:
        check_trainer_mode(cell.arguments(tmp_path))
    assert re.search(cell.refused, str(error.value)), str(error.value)


@pytest.mark.filterwarnings("ignore:`compute_loss_func` is deprecated:FutureWarning")
def test_what_is_seen_late_is_refused_whatever_on_error_says(tmp_path: Path) -> None:
    (cell,) = (cell for cell in CELLS if cell.late)
    trainer = cell.trainer(tmp_path, [SMDACallback({**tiny.tiny_config(tmp_path / "files"), "on_error": "warn"})], 1)
    with pytest.raises(PrerequisiteError, match=cell.refused):
        trainer.train()
    assert trainer.state.global_step == 0


def test_what_other_tests_hold_is_there() -> None:
    for file, name in (cell.held_by.split("::") for cell in CELLS if cell.held_by):
        assert f"def {name}(" in Path(__file__).with_name(file).read_text(encoding="utf-8"), name


def test_readme_has_the_table() -> None:
    readme = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    assert modes.table() in readme, "python tests/modes.py prints it"


def test_no_cell_is_named_twice() -> None:
    named = [(cell.group, cell.name) for cell in CELLS]
    assert len(set(named)) == len(named)
