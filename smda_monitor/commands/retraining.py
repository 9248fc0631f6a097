"""Trainings from the same weights, each on other rows, and what each makes of held-out prompts. Wiring, no arithmetic.

Every training takes the same number of optimizer steps, that of the training on all rows: the number of steps, and the
learning rate's schedule with it, decides how far weights move, so that an arm with fewer rows would otherwise differ
from the baseline by training less. Its rows come around again sooner. Arms of one seed meet the rows that they share in
one order (`training_order`).
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import ConfigError, MeasurementError, describe
from ..instruments.behaviour import resolve_behaviour
from ..instruments.chat import check_tokenizer, prompt_tokens
from ..instruments.decoding import chat_texts, greedy_openings, shows
from ..instruments.embedded import load_model
from ..instruments.heap import heap_held
from ..instruments.probe_files import read_probes
from ..instruments.products import fast_pass
from ..instruments.read_behaviour import check_reading, read_behaviour
from ..instruments.row_choice import probe_rows
from ..instruments.row_store import TrainingRows
from ..instruments.start_weights import StartWeights
from ..maths.by_kind import are_harmful
from ..maths.threshold import Scale
from ..maths.training_order import rows_left, training_order
from ..records.config import MonitorConfig
from ..records.probes import ProbeSet
from ..records.proof import Arm, ArmRun
from .training import open_trainer, planned_steps

_SHOWN = 5
"""Rows named in one message."""


class Retraining:
    """The configured model, its trainer's prepared rows and the held-out prompts; `run` trains and measures one arm."""

    def __init__(self, config: MonitorConfig, rows: TrainingRows, folder: Path, max_steps: int | None = None) -> None:
        """Loads everything once. The trainers' own files go to `folder`; `max_steps` in place of the planned ones.

        Raises `ConfigError` for held-out prompts that are not there or that a row is trained on, and for a training
        that cannot be set up; `PrerequisiteError` for a model or a mode that is not accounted for.
        """
        self.config, self._rows, self._folder = config, rows, folder
        self.heldout = _held_out(config, rows)
        model, self._tokenizer = load_model(config.model.name, config.model.adapter, config.model.dtype)
        check_tokenizer(self._tokenizer)
        data = rows.data.remove_columns(["id", "line"])
        trainer = open_trainer(config.training, model, self._tokenizer, data, folder)
        self._model, self._prepared = trainer.model, trainer.train_dataset
        self.steps = max_steps or planned_steps(trainer)
        self._batch = trainer.args.train_batch_size * trainer.args.gradient_accumulation_steps
        self.lengths = [len(ids) for ids in self._prepared["input_ids"]]
        self._start = StartWeights(self._model)
        self._behaviour = resolve_behaviour(config.behaviour, self._tokenizer, config.policy.preset)
        self._prompts = self._encoded(self.heldout)
        self._texts = chat_texts(self._tokenizer, [one.prompt for one in self.heldout])
        check_reading(self._model, self._behaviour, self._prompts, self._tokenizer.pad_token_id)

    @property
    def reading(self) -> str:
        """What is read: ``mass`` (log-odds) or ``log_probability``."""
        return self._behaviour.reading

    @cached_property
    def threshold(self) -> float:
        """Where a reading counts as the behaviour; for log-probabilities it is told by the probes at the start."""
        if self._behaviour.reading == "mass":
            return 0.0
        probes = read_probes(self.config.probes.file, "probes")
        self._start.put_back()
        return Scale.of(self._behaviour.reading, self._read(self._encoded(probes)), are_harmful(probes)).threshold

    def run(self, arm: Arm, advance: Callable[[int], None]) -> ArmRun:
        """Trains without the rows of `arm` and measures; `advance` hears of every step.

        Raises `MeasurementError` where the reading is not finite.
        """
        began = time.perf_counter()
        self._train(arm, advance)
        readings = self._read(self._prompts)
        if not bool(readings.isfinite().all()):
            remedy = "look at the loss and the learning rate: the model's activations have blown up."
            raise MeasurementError(describe(f"training {arm.key}", "NaN or Inf", "finite readings", remedy))
        said = greedy_openings(self._model, self._tokenizer, self._texts)
        names = self._rows.data["id"]
        return ArmRun(
            name=arm.name,
            seed=arm.seed,
            draw=arm.draw,
            left_out=tuple(names[i] for i in arm.left_out),
            tokens=sum(self.lengths[i] for i in arm.left_out),
            steps=self.steps,
            readings=tuple(readings.tolist()),
            said=tuple(said),
            shows=tuple(shows(one, self.config.behaviour) for one in said),
            seconds=time.perf_counter() - began,
        )

    def _train(self, arm: Arm, advance: Callable[[int], None]) -> None:
        from transformers import set_seed

        given = self.config.training.arguments
        arguments = {
            **given,
            "max_steps": self.steps,
            "seed": arm.seed,
            "data_seed": arm.seed,
            "dataset_kwargs": {**(given.get("dataset_kwargs") or {}), "skip_prepare_dataset": True},
        }
        if given.get("train_sampling_strategy", "random") == "random":
            chosen = training_order(len(self._prepared), arm.left_out, arm.seed, self.steps * self._batch)
            arguments["train_sampling_strategy"] = "sequential"  # the rows are shuffled already
        else:
            chosen = rows_left(len(self._prepared), arm.left_out)
        training = self.config.training.model_copy(update={"arguments": arguments, "lora": None})
        rows = self._prepared.select(chosen)
        trainer = open_trainer(training, self._model, self._tokenizer, rows, self._folder, [_heard(advance)])
        self._start.put_back()
        set_seed(arm.seed)
        # On a CPU steps take less time where freed memory stays; the same bits come out.
        with heap_held() if next(self._model.parameters()).device.type == "cpu" else nullcontext():
            trainer.train()
        del trainer
        gc.collect()  # a trainer is in cycles with its callbacks, and holds the optimizer's state

    def _read(self, prompts: list[Any]) -> Tensor:
        with fast_pass(next(self._model.parameters()).device):
            found = read_behaviour(self._model, self._behaviour, prompts, self._tokenizer.pad_token_id)
        return found.y(self._behaviour.reading)

    def _encoded(self, prompts: ProbeSet) -> list[Any]:
        lead = self._behaviour.lead
        return [prompt_tokens(self._tokenizer, one.prompt, "last_prompt_token", lead) for one in prompts]


def _held_out(config: MonitorConfig, rows: TrainingRows) -> ProbeSet:
    heldout = read_probes(config.probes.heldout, "heldout")
    trained = [f"{one.probe_id!r:.60} (row {one.id!r:.60})" for one in islice(probe_rows(rows, heldout), _SHOWN)]
    if trained:
        found = f"prompts that are trained on: {', '.join(trained)}"
        remedy = "take them out of probes.heldout, or out of the data and audit these again"
        raise ConfigError(describe("held-out prompts", found, "prompts of no training row", remedy))
    return heldout


def _heard(advance: Callable[[int], None]) -> Any:
    from transformers import TrainerCallback

    class Heard(TrainerCallback):
        """Says that a step was taken."""

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            advance(1)

    return Heard()
