"""The callback: one line in `SFTTrainer(callbacks=[...])`, and the run is monitored. Wiring alone."""

from __future__ import annotations

import atexit
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from .errors import PrerequisiteError, describe
from .instruments.config_file import load_config
from .monitor import setup
from .monitor.run import MonitoredRun
from .records.alert import Alert
from .records.config import MonitorConfig

logger = logging.getLogger("smda_monitor")


class SMDACallback(TrainerCallback):
    """Watches a behaviour while `trl.SFTTrainer` trains, and accounts for every step row by row.

    Example:
        trainer = SFTTrainer(model, args=SFTConfig(...), train_dataset=ds, callbacks=[SMDACallback("config.yaml")])
        trainer.train()

    Several in one trainer watch several behaviours, each with a policy, a folder and a behaviour's name of its own.

    Args:
        config: A YAML file, a mapping or a `MonitorConfig`.
        rows: Your own data set with an id column, so that rows are called by your ids (matched by content). Without it
            a row is called by its place in the trainer's prepared data set.
        id_column: The column of `rows` that holds the id.
        on_alert: Called with every `Alert` (`smda_monitor.records.alert`) once it is in the ledger. What it raises is
            logged, and training goes on. On several ranks it is called on the first.

    Raises, before the first step: `ConfigError` for a wrong argument or file, `PrerequisiteError` for a model,
    tokenizer or trainer mode that is not accounted for. Later, `MeasurementError` where a figure cannot be taken
    (``on_error: raise``).
    """

    def __init__(
        self,
        config: str | Path | Mapping[str, Any] | MonitorConfig,
        rows: Iterable[Mapping[str, Any]] | None = None,
        id_column: str = "id",
        on_alert: Callable[[Alert], object] | None = None,
    ) -> None:
        self.config = load_config(config)
        self.on_alert = on_alert
        self.rows = rows
        self.id_column = id_column
        self.run: MonitoredRun | None = None
        self.error: str | None = None
        self.clock: Callable[[], float] | None = None
        """How seconds are read, from any origin; None: wall time, with the device's queue waited for."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Checks everything, measures the first snapshot and puts the hooks on; errors here always raise."""
        model, tokenizer = kwargs.get("model"), kwargs.get("processing_class")
        if model is None or tokenizer is None:
            remedy = "pass SMDACallback in SFTTrainer(callbacks=[...])."
            raise PrerequisiteError(describe("trainer", "no model or tokenizer", "trl.SFTTrainer", remedy))
        self.close()
        self.error = None
        # Ctrl-C and an exception elsewhere reach no event of the trainer's.
        atexit.unregister(self.close)
        atexit.register(self.close)
        self.run = setup.start_run(
            self.config,
            model,
            tokenizer,
            args,
            state,
            kwargs.get("optimizer"),
            kwargs.get("train_dataloader"),
            self.rows,
            self.id_column,
            self.clock,
        )

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Keeps the clipped gradient and the optimizer's state."""
        ends = setup.account_ends(args, state)
        self._guard(lambda run: run.before_step(kwargs["optimizer"], state.global_step + 1, ends))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Writes the account of the step."""
        self._guard(lambda run: self._act(run.after_step(), control, save=True))

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Accounts for the steps up to the checkpoint, and leaves the run's id in it."""
        self._guard(lambda run: self._act(run.account(), control, save=False))
        self._guard(lambda _: setup.mark_checkpoint(args, state))

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The last snapshot, the summary and the report."""
        self._guard(lambda run: self._act(setup.finish_run(run, state.global_step), control, save=False))
        if self.run is not None:
            self.run.instruments.ranks.leave()
        atexit.unregister(self.close)

    def close(self, status: str = "stopped") -> None:
        """Ends the monitoring of a run that was interrupted (Ctrl-C, an exception): hooks go, the ledger is closed and
        the report written. Called by itself when Python exits; does nothing after a run that ended by itself.
        """
        if self.run is not None and self.run.accountant.capture is not None:
            run, self.run = self.run, None
            setup.abandon_run(run, status)
        atexit.unregister(self.close)

    def _act(self, alerts: Sequence[Alert], control: TrainerControl, save: bool) -> None:
        """What is to be done at alerts: the user's function, and where the config says so training stops, with a
        checkpoint (`save`) where none is being made."""
        for alert in alerts:
            if self.on_alert is not None and self.run is not None and self.run.instruments.ranks.first:
                try:
                    self.on_alert(alert)
                except Exception:  # of any kind: the function is the user's, and no alert may cost a run
                    logger.exception("on_alert failed at the alert on %s. Training goes on.", alert.subject)
            if alert.kind in self.config.alerts.stop and not control.should_training_stop:
                control.should_training_stop, control.should_save = True, save
                logger.warning("Training stops, as alerts.stop says: %s", alert.title)

    def _guard(self, action: Callable[[MonitoredRun], object]) -> None:
        """Runs `action`; a failure raises, or under ``on_error: warn`` is recorded and ends the monitoring alone. What
        could not be accounted for from the first step on always raises."""
        if self.run is None or self.error is not None:
            return
        try:
            with self.run.instruments.ranks.agreed():
                action(self.run)
        except Exception as error:
            self.error = f"{type(error).__name__}: {error}"
            setup.abandon_run(self.run, "failed", self.error)
            if self.config.on_error == "raise" or isinstance(error, PrerequisiteError):
                raise
            logger.error("Monitoring has stopped, training goes on unmonitored. %s", self.error)
