"""What goes wrong around a monitored run, one fault to a run: training and what was written must be as promised."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from _small_run import STEPS, SmallRun, Weights, same
from transformers import TrainerCallback

from smda_monitor.callback import SMDACallback
from smda_monitor.errors import MeasurementError
from smda_monitor.outputs import parts
from smda_monitor.outputs.ledger_reader import read_ledger
from smda_monitor.outputs.review import ReviewSink

AT = 3
"""The step at which things go wrong."""
Fault = Callable[[SmallRun, Sequence[Weights]], None]
"""Runs into it, given the weights that plain training has; raises `Broken` where a promise is."""


class Broken(Exception):
    """A promise that was not kept."""


class _At(TrainerCallback):
    """Does something at the start, or the end, of step `AT`."""

    def __init__(self, work: Callable[[Any], object], at_end: bool = False) -> None:
        self._work, self._at_end = work, at_end

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Before it."""
        if not self._at_end and state.global_step == AT - 1:
            self._work(kwargs["model"])

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """After it."""
        if self._at_end and state.global_step == AT:
            self._work(kwargs["model"])


def _need(held: bool, promise: str) -> None:
    if not held:
        raise Broken(promise)


def _steps(run: SmallRun) -> list[int]:
    return [account.step for account in read_ledger(run.home).accounts]


@contextmanager
def _instead(owner: Any, name: str, work: Any) -> Iterator[None]:
    inner = getattr(owner, name)
    setattr(owner, name, work)
    try:
        yield
    finally:
        setattr(owner, name, inner)


def a_sink_fails(run: SmallRun, plain: Sequence[Weights]) -> None:
    def fails(self: Any, account: Any) -> None:
        if account.step == AT:
            raise ConnectionError("the service was killed")

    with _instead(ReviewSink, "account", fails):
        _need(same(run.monitored(), plain), "weights")
    _need(_steps(run) == list(range(1, STEPS + 1)), "a whole ledger")
    told = json.loads((run.home / "summary.json").read_text("utf-8"))
    _need(len(told["sink_failures"]) == 1, "one line said")


def a_slow_sink(run: SmallRun, plain: Sequence[Weights]) -> None:
    with _instead(ReviewSink, "account", lambda self, account: time.sleep(0.2)):
        _need(same(run.monitored(), plain), "weights")
    _need(_steps(run) == list(range(1, STEPS + 1)), "a whole ledger")


def _on_a_full_disk(run: SmallRun, **sections: Any) -> list[Weights]:
    write = parts.write_part

    def full(home: Any, stem: str, first: int, *rest: Any) -> Any:
        if first >= AT:
            raise OSError(28, "No space left on device")
        return write(home, stem, first, *rest)

    with _instead(parts, "write_part", full):
        return run.monitored(**sections)


def a_full_disk(run: SmallRun, plain: Sequence[Weights]) -> None:
    _need(same(_on_a_full_disk(run, on_error="warn"), plain), "weights")
    _need(_steps(run) == list(range(1, AT)), "what was written before")


def a_full_disk_that_stops_it(run: SmallRun, plain: Sequence[Weights]) -> None:
    try:
        _on_a_full_disk(run, on_error="raise")
    except OSError:
        _need(_steps(run) == list(range(1, AT)), "what was written before")
    else:
        raise Broken("on_error: raise")


def a_folder_that_goes(run: SmallRun, plain: Sequence[Weights]) -> None:
    monitor = SMDACallback(run.config(on_error="warn"))
    gone = _At(lambda _: shutil.rmtree(run.home))
    _need(same(run.train([gone, monitor]), plain), "weights")
    _need(monitor.error is not None, "it is said")


def _nan(model: Any) -> None:
    with torch.no_grad():
        next(w for w in model.parameters() if w.requires_grad).fill_(float("nan"))


def weights_without_a_value(run: SmallRun, plain: Sequence[Weights]) -> None:
    without = SmallRun(run.bed, run.folder / "plain").train([_At(_nan)])
    monitor = SMDACallback(run.config(on_error="warn"))
    _need(same(run.train([_At(_nan), monitor]), without), "weights")
    _need("MeasurementError" in str(monitor.error), "it is said")
    _need(_steps(run) == list(range(1, AT)), "what was written before")


def weights_without_a_value_that_stop_it(run: SmallRun, plain: Sequence[Weights]) -> None:
    try:
        run.train([_At(_nan), SMDACallback(run.config())])
    except MeasurementError:
        _need(_steps(run) == list(range(1, AT)), "what was written before")
    else:
        raise Broken("on_error: raise")


def an_alert_function_that_fails(run: SmallRun, plain: Sequence[Weights]) -> None:
    def fails(alert: Any) -> None:
        raise RuntimeError("the user's own")

    def moves(model: Any) -> None:
        with torch.no_grad():
            next(w for w in model.parameters() if w.requires_grad).add_(0.01)

    moved = SmallRun(run.bed, run.folder / "plain").train([_At(moves)])
    monitor = SMDACallback(run.config(), on_alert=fails)
    _need(same(run.train([_At(moves), monitor]), moved), "weights")
    _need(len(read_ledger(run.home).alerts) > 0, "there was an alert")


def ctrl_c_twice(run: SmallRun, plain: Sequence[Weights]) -> None:
    def pressed(_: object = None) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)  # it arrives meanwhile

    monitor = SMDACallback(run.config())
    trainer = run.trainer([monitor, _At(pressed, at_end=True)])
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in trainer.model.modules()]
    try:
        trainer.train()
    except KeyboardInterrupt:
        pass
    else:
        raise Broken("the first one")
    with _instead(ReviewSink, "finish", lambda self, summary: pressed()), suppress(KeyboardInterrupt):
        monitor.close()
    after = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in trainer.model.modules()]
    _need(after == hooks, "the hooks are gone")
    _need(_steps(run) == list(range(1, AT + 1)), "what was written before")


def wandb_s_service_is_killed(run: SmallRun, plain: Sequence[Weights]) -> None:
    import psutil
    import wandb

    def kill(_: Any) -> None:
        children = psutil.Process().children(recursive=True)
        _need(bool(children), "there is a service to kill")
        for child in children:
            child.kill()

    run.folder.mkdir(parents=True)
    wandb.init(project="smda-faults", mode="offline", dir=str(run.folder))
    config = run.config()
    monitor = SMDACallback({**config, "outputs": {**config["outputs"], "wandb": True}})
    _need(same(run.train([_At(kill), monitor]), plain), "weights")
    _need(_steps(run) == list(range(1, STEPS + 1)), "a whole ledger")


def a_checkpoint_without_the_monitor(run: SmallRun, plain: Sequence[Weights]) -> None:
    def stops(_: Any) -> None:
        raise InterruptedError

    with suppress(InterruptedError):
        run.train([_At(stops, at_end=True)])
    fitted = {"path": "fit", "bootstrap": 0}  # the saved policy is of the model before the first step
    _need(same(run.monitored(resume=True, policy=fitted), plain), "weights")
    _need(_steps(run) == list(range(AT, STEPS + 1)), "accounts from there on")


FAULTS: dict[str, Fault] = {
    "a sink fails": a_sink_fails,
    "a slow sink": a_slow_sink,
    "W&B's service is killed": wandb_s_service_is_killed,
    "a full disk, on_error: warn": a_full_disk,
    "a full disk, on_error: raise": a_full_disk_that_stops_it,
    "a folder that goes": a_folder_that_goes,
    "NaN in the weights, on_error: warn": weights_without_a_value,
    "NaN in the weights, on_error: raise": weights_without_a_value_that_stop_it,
    "an alert function that fails": an_alert_function_that_fails,
    "Ctrl-C twice": ctrl_c_twice,
    "a checkpoint made without the monitor": a_checkpoint_without_the_monitor,
}
