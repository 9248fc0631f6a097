"""The phases of a monitored run, each told of as it begins and ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from transformers import Trainer, TrainerCallback

from smda_monitor.monitor import setup
from smda_monitor.monitor.accounting import Accountant
from smda_monitor.outputs.ledger import Ledger
from smda_monitor.outputs.report.sink import ReportSink

PHASES = ("setup", "training", "probes", "ledger", "checkpoint", "report")
"""The start, a forward and backward of training, a pass over the probes, a write to the ledger, the trainer's own
checkpoint, the report."""


class _Phases(TrainerCallback):
    """Tells of every phase as it begins and ends."""

    def __init__(self, tell: Callable[[str, bool], None]) -> None:
        self.tell = tell

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        """Training."""
        self.tell("training", True)

    def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """It ends here."""
        self.tell("training", False)


@contextmanager
def followed(tell: Callable[[str, bool], None], written: Callable[[int], None]) -> Iterator[_Phases]:
    """While open, phases tell of themselves, and every account that is in the ledger is `written`."""
    kept = []

    def follow(owner: Any, name: str, phase: str, after: Callable[..., None] = lambda *_: None) -> None:
        inner = getattr(owner, name)
        kept.append((owner, name, inner))

        def told(*args: Any, **kwargs: Any) -> Any:
            tell(phase, True)
            found = inner(*args, **kwargs)
            after(*args)
            tell(phase, False)
            return found

        setattr(owner, name, told)

    follow(setup, "start_run", "setup")
    follow(Accountant, "_probe", "probes")
    follow(Ledger, "account", "ledger", lambda _, account: written(account.step))
    follow(Trainer, "_save_checkpoint", "checkpoint")
    follow(ReportSink, "finish", "report")
    try:
        yield _Phases(tell)
    finally:
        for owner, name, inner in kept:
            setattr(owner, name, inner)
