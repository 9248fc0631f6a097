"""What goes wrong with what a run writes to: sinks, W&B, the disk, the folder."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from typing import Any

from _promises import AT, At, Broken, instead, need, steps_of
from _small_run import STEPS, SmallRun, Weights, same

from smda_monitor.callback import SMDACallback
from smda_monitor.outputs import parts, sink
from smda_monitor.outputs.review import ReviewSink


def _lost(run: SmallRun) -> list[str]:
    """The sinks that were given up."""
    summary = json.loads((run.home / "summary.json").read_text("utf-8"))
    return [failure["sink"] for failure in summary["sink_failures"]]


def a_sink_fails(run: SmallRun, plain: Sequence[Weights]) -> None:
    def fails(self: Any, account: Any) -> None:
        if account.step == AT:
            raise ConnectionError("the service was killed")

    with instead(ReviewSink, "account", fails):
        need(same(run.monitored(), plain), "weights")
    need(steps_of(run) == list(range(1, STEPS + 1)), "a whole ledger")
    need(_lost(run) == ["ReviewSink"], "one line said")


def a_slow_sink(run: SmallRun, plain: Sequence[Weights]) -> None:
    fed: list[int] = []

    def slow(self: Any, account: Any) -> None:
        fed.append(account.step)
        time.sleep(0.5)

    with instead(ReviewSink, "account", slow), instead(sink, "PATIENCE", 0.8):
        need(same(run.monitored(), plain), "weights")
    need(len(fed) < STEPS, "it is given up")
    need(steps_of(run) == list(range(1, STEPS + 1)), "a whole ledger")
    need(_lost(run).count("ReviewSink") == 1, "one line said")


def _on_a_full_disk(run: SmallRun, **sections: Any) -> list[Weights]:
    write = parts.write_part

    def full(home: Any, stem: str, first: int, *rest: Any) -> Any:
        if first >= AT:
            raise OSError(28, "No space left on device")
        return write(home, stem, first, *rest)

    with instead(parts, "write_part", full):
        return run.monitored(**sections)


def a_full_disk(run: SmallRun, plain: Sequence[Weights]) -> None:
    need(same(_on_a_full_disk(run, on_error="warn"), plain), "weights")
    need(steps_of(run) == list(range(1, AT)), "what was written before")


def a_full_disk_that_stops_it(run: SmallRun, plain: Sequence[Weights]) -> None:
    try:
        _on_a_full_disk(run, on_error="raise")
    except OSError:
        need(steps_of(run) == list(range(1, AT)), "what was written before")
    else:
        raise Broken("on_error: raise")


def a_folder_that_goes(run: SmallRun, plain: Sequence[Weights]) -> None:
    monitor = SMDACallback(run.config(on_error="warn"))
    gone = At(lambda _: shutil.rmtree(run.home))
    need(same(run.train([gone, monitor]), plain), "weights")
    need(monitor.error is not None, "it is said")


def a_folder_that_goes_without_a_word_of_the_trainer(run: SmallRun, plain: Sequence[Weights]) -> None:
    """No checkpoint comes by."""
    monitor, said = SMDACallback(run.config(on_error="warn")), list[str | None]()
    gone, later = At(lambda _: shutil.rmtree(run.home)), At(lambda _: said.append(monitor.error), at_end=True)
    need(same(run.train([gone, monitor, later], save_strategy="no"), plain), "weights")
    need(said != [None], "it is said at once")


def _with_wandb(run: SmallRun, plain: Sequence[Weights], *callbacks: Any) -> None:
    import wandb

    run.folder.mkdir(parents=True)
    wandb.init(project="smda-faults", mode="offline", dir=str(run.folder))
    config = run.config()
    monitor = SMDACallback({**config, "outputs": {**config["outputs"], "wandb": True}})
    need(same(run.train([*callbacks, monitor]), plain), "weights")
    need(steps_of(run) == list(range(1, STEPS + 1)), "a whole ledger")


def wandb_s_quota_is_used_up(run: SmallRun, plain: Sequence[Weights]) -> None:
    from wandb.errors import CommError
    from wandb.sdk.wandb_run import Run

    def refuses(self: Any, *args: Any, **kwargs: Any) -> None:
        raise CommError("filestream: 402: storage quota exceeded")

    with instead(Run, "log", refuses):
        _with_wandb(run, plain)
    need(_lost(run) == ["WandbSink"], "one line said")


def wandb_s_service_is_killed(run: SmallRun, plain: Sequence[Weights]) -> None:
    import psutil

    def kill(_: Any) -> None:
        children = psutil.Process().children(recursive=True)
        need(bool(children), "there is a service to kill")
        for child in children:
            child.kill()

    _with_wandb(run, plain, At(kill))
