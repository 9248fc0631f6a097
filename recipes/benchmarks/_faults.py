"""What goes wrong around a monitored run, one fault to a run: training and what was written must be as promised."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import _faults_around as around
import torch
from _promises import AT, At, Broken, Fault, instead, need, steps_of
from _small_run import STEPS, SmallRun, Weights, same

from smda_monitor.callback import SMDACallback
from smda_monitor.errors import MeasurementError
from smda_monitor.outputs.ledger_reader import read_ledger
from smda_monitor.outputs.review import ReviewSink


def _in_probe_passes(work: Callable[[Any, Any, Any], Any]) -> Callable[[Any], None]:
    """`work` as a hook of a layer while the model is in eval mode."""

    def put(model: Any) -> None:
        layer = next(module for name, module in model.named_modules() if name.endswith("layers.1"))
        layer.register_forward_hook(lambda module, *rest: None if module.training else work(module, *rest))

    return put


def memory_that_runs_out(run: SmallRun, plain: Sequence[Weights]) -> None:
    sizes: list[int] = []

    def lacking(module: Any, args: Any, output: Any) -> None:
        sizes.append(len(args[0]))
        if len(args[0]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    monitor = SMDACallback(run.config())
    need(same(run.train([At(_in_probe_passes(lacking)), monitor]), plain), "weights")
    need(min(sizes) <= 2 < max(sizes), "it ran out, and went on in parts")
    need(steps_of(run) == list(range(1, STEPS + 1)), "a whole ledger")


def an_activation_without_a_value(run: SmallRun, plain: Sequence[Weights]) -> None:
    monitor = SMDACallback(run.config(on_error="warn"))
    infinite = _in_probe_passes(lambda module, args, output: output * float("inf"))
    need(same(run.train([At(infinite), monitor]), plain), "weights")
    need("MeasurementError" in str(monitor.error), "it is said")
    need(steps_of(run) == list(range(1, AT)), "what was written before")


def a_gradient_without_a_value(run: SmallRun, plain: Sequence[Weights]) -> None:
    def broken(model: Any) -> None:
        weight = next(w for w in model.parameters() if w.requires_grad)
        weight.register_hook(lambda gradient: gradient * float("nan"))

    without = SmallRun(run.bed, run.folder / "plain").train([At(broken)])
    monitor = SMDACallback(run.config(on_error="warn"))
    need(same(run.train([At(broken), monitor]), without), "weights")
    need("MeasurementError" in str(monitor.error), "it is said")
    need(steps_of(run) == list(range(1, AT)), "what was written before")


def _nan(model: Any) -> None:
    with torch.no_grad():
        next(w for w in model.parameters() if w.requires_grad).fill_(float("nan"))


def weights_without_a_value(run: SmallRun, plain: Sequence[Weights]) -> None:
    without = SmallRun(run.bed, run.folder / "plain").train([At(_nan)])
    monitor = SMDACallback(run.config(on_error="warn"))
    need(same(run.train([At(_nan), monitor]), without), "weights")
    need("MeasurementError" in str(monitor.error), "it is said")
    need(steps_of(run) == list(range(1, AT)), "what was written before")


def weights_without_a_value_that_stop_it(run: SmallRun, plain: Sequence[Weights]) -> None:
    try:
        run.train([At(_nan), SMDACallback(run.config())])
    except MeasurementError:
        need(steps_of(run) == list(range(1, AT)), "what was written before")
    else:
        raise Broken("on_error: raise")


def an_alert_function_that_fails(run: SmallRun, plain: Sequence[Weights]) -> None:
    def fails(alert: Any) -> None:
        raise RuntimeError("the user's own")

    def moves(model: Any) -> None:
        with torch.no_grad():
            next(w for w in model.parameters() if w.requires_grad).add_(0.01)

    moved = SmallRun(run.bed, run.folder / "plain").train([At(moves)])
    monitor = SMDACallback(run.config(), on_alert=fails)
    need(same(run.train([At(moves), monitor]), moved), "weights")
    need(len(read_ledger(run.home).alerts) > 0, "there was an alert")


def ctrl_c_twice(run: SmallRun, plain: Sequence[Weights]) -> None:
    def pressed(_: object = None) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)  # it arrives meanwhile

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    monitor = SMDACallback(run.config())
    trainer = run.trainer([monitor, At(pressed, at_end=True)])
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in trainer.model.modules()]
    try:
        trainer.train()
    except KeyboardInterrupt:
        pass
    else:
        raise Broken("the first one")
    with instead(ReviewSink, "finish", lambda self, summary: pressed()), suppress(KeyboardInterrupt):
        monitor.close()
    after = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in trainer.model.modules()]
    need(after == hooks, "the hooks are gone")
    need(steps_of(run) == list(range(1, AT + 1)), "what was written before")


def a_checkpoint_without_the_monitor(run: SmallRun, plain: Sequence[Weights]) -> None:
    def stops(_: Any) -> None:
        raise InterruptedError

    with suppress(InterruptedError):
        run.train([At(stops, at_end=True)])
    fitted = {"path": "fit", "bootstrap": 0}  # the saved policy is of the model before the first step
    need(same(run.monitored(resume=True, policy=fitted), plain), "weights")
    need(steps_of(run) == list(range(AT, STEPS + 1)), "accounts from there on")


FAULTS: dict[str, Fault] = {
    "a sink fails": around.a_sink_fails,
    "a slow sink": around.a_slow_sink,
    "W&B's service is killed": around.wandb_s_service_is_killed,
    "W&B's quota is used up": around.wandb_s_quota_is_used_up,
    "a full disk, on_error: warn": around.a_full_disk,
    "a full disk, on_error: raise": around.a_full_disk_that_stops_it,
    "a folder that goes": around.a_folder_that_goes,
    "a folder that goes, without checkpoints": around.a_folder_that_goes_without_a_word_of_the_trainer,
    "memory runs out in a pass over probes": memory_that_runs_out,
    "Inf in an activation of the probes": an_activation_without_a_value,
    "NaN in a gradient": a_gradient_without_a_value,
    "NaN in the weights, on_error: warn": weights_without_a_value,
    "NaN in the weights, on_error: raise": weights_without_a_value_that_stop_it,
    "an alert function that fails": an_alert_function_that_fails,
    "Ctrl-C twice": ctrl_c_twice,
    "a checkpoint made without the monitor": a_checkpoint_without_the_monitor,
}
