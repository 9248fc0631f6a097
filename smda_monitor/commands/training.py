"""The training that an audit looks ahead to: the user's own SFTTrainer, rows prepared, the optimizer's state warmed.

Nothing of the trainer is imitated: rows are tokenised, collated and weighed by it, and the optimizer is the one that it
builds. A row's loss is its part of an average batch's, Σ_t nll_t / N, where N is the mean number of tokens that carry
loss in a batch of the run: what the row would add to any batch, since a loss's denominator hardly depends on one row.
The paper's update is one of plain SGD on a row's own mean loss (arXiv 2606.29171, its protocol).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from ..errors import ConfigError, describe
from ..instruments.row_layout import IGNORED
from ..instruments.silence import no_bars
from ..instruments.trainer_mode import check_trainer_mode
from ..records.config import TrainingConfig

Update = Literal["robust", "paper"]
PAPER_LEARNING_RATE = 1e-4
"""Of the paper's step."""
PAPER = {"completion_only_loss": True, "learning_rate": PAPER_LEARNING_RATE, "bf16": False, "fp16": False}
"""What the paper's update is, whatever the user's own training says."""
QUIET = {
    "report_to": "none",
    "save_strategy": "no",
    "logging_strategy": "no",
    "eval_strategy": "no",
    "disable_tqdm": True,
    "bf16": False,
    "activation_checkpointing": False,
}
"""What an audit's trainer does where the user says nothing else."""


@dataclass(frozen=True)
class Training:
    """A model about to take a step, and the rows that it could take it on."""

    trainer: Any
    """TRL's SFTTrainer."""
    optimizer: torch.optim.Optimizer
    """With the state from which every row's step is taken."""
    max_norm: float
    """At which the gradient's norm is clipped; 0: not at all."""
    tokens: float | None
    """N, tokens that carry loss in a batch on average; None: a row's loss is the mean of its own."""
    together: int
    """Rows whose gradients may be captured in one forward."""
    in_training: bool
    """Whether the forward runs in train mode."""

    @property
    def model(self) -> nn.Module:
        """The model that trains."""
        model: nn.Module = self.trainer.model
        return model

    @property
    def rows(self) -> Any:
        """The prepared data set, rows in the order in which they were given."""
        return self.trainer.train_dataset

    def backward(self, chosen: Sequence[int]) -> None:
        """Forward and backward of the rows numbered `chosen`, so that every trained parameter's ``.grad`` is the sum of
        their losses' gradients. Hooks see both; no step is taken."""
        batch = self.trainer._prepare_inputs(self.trainer.data_collator([self.rows[i] for i in chosen]))
        self.model.zero_grad(set_to_none=True)
        self.model.train(self.in_training)
        weight = None if self.tokens is None else torch.tensor(self.tokens)
        with torch.enable_grad(), self.trainer.compute_loss_context_manager():
            self.trainer.compute_loss(self.model, batch, num_items_in_batch=weight).backward()


def open_training(
    config: TrainingConfig, update: Update, warm_up: int, model: nn.Module, tokenizer: Any, rows: Any, folder: Path
) -> Training:
    """Sets up the `update` of `model` on `rows` (a data set in TRL's format); the trainer's own files go to `folder`.

    Under ``robust`` so many steps of `warm_up` are trained first: the model moves, and so does the optimizer's state.
    Raises `ConfigError` for an argument that SFTConfig or LoraConfig does not know or accept, `PrerequisiteError` for a
    mode that is not accounted for.
    """
    if update == "paper":
        paper = config.model_copy(update={"arguments": {**config.arguments, **PAPER}, "lora": None})
        # In float32 before adapters are merged: in bfloat16 a step of this size is rounded away.
        trainer = open_trainer(paper, _whole(model.float()).requires_grad_(True), tokenizer, rows, folder)
        sgd = torch.optim.SGD(trainer.model.parameters(), lr=PAPER_LEARNING_RATE)
        return Training(trainer, sgd, 0.0, None, 1, False)
    trainer = open_trainer(config, model, tokenizer, rows, folder, [_stop_after(warm_up)])
    args = trainer.args
    if warm_up:
        trainer.train()
    else:
        trainer.create_optimizer()
    optimizer: torch.optim.Optimizer = getattr(trainer.optimizer, "optimizer", trainer.optimizer)
    for group in optimizer.param_groups:
        group["lr"] = group.get("initial_lr", args.learning_rate)  # not where the schedule's own warm-up has got to
    batch = args.per_device_train_batch_size * args.gradient_accumulation_steps
    tokens = batch * _mean_tokens(trainer.train_dataset)
    return Training(
        trainer, optimizer, float(args.max_grad_norm or 0.0), tokens, args.per_device_train_batch_size, True
    )


def open_trainer(
    config: TrainingConfig, model: nn.Module, tokenizer: Any, rows: Any, folder: Path, callbacks: Sequence[Any] = ()
) -> Any:
    """The user's own SFTTrainer of `model` on `rows`, which prints nothing; its files go to `folder`.

    Raises `ConfigError` for an argument that SFTConfig or LoraConfig does not know or accept, and for rows that the
    trainer leaves out; `PrerequisiteError` for a mode that is not accounted for.
    """
    from transformers import PrinterCallback
    from trl import SFTTrainer

    args = _sft_config(config.arguments, folder)
    check_trainer_mode(args)
    for name in ("packing", "padding_free"):
        if getattr(args, name):
            found, remedy = "rows in one sequence", "take it out: the rows' own figures are the same without."
            raise ConfigError(describe(f"training.arguments.{name}", found, "rows that can be left out", remedy))
    lora = None if config.lora is None else _lora_config(config.lora)
    with no_bars():
        trainer: Any = SFTTrainer(
            model, args=args, train_dataset=rows, processing_class=tokenizer, peft_config=lora, callbacks=[*callbacks]
        )
    trainer.remove_callback(PrinterCallback)
    if len(trainer.train_dataset) != len(rows):
        found = f"{len(rows) - len(trainer.train_dataset)} of {len(rows)} rows that SFTTrainer leaves out"
        remedy = "give every row an answer that fits into max_length."
        raise ConfigError(describe("training data", found, "rows that all carry loss", remedy))
    return trainer


def planned_steps(trainer: Any) -> int:
    """Optimizer steps that `trainer` is set up to take: its ``max_steps`` or, where that is not set, its epochs."""
    args = trainer.args
    if args.max_steps > 0:
        return int(args.max_steps)
    an_epoch: int = -(-len(trainer.get_train_dataloader()) // args.gradient_accumulation_steps)
    epochs: float = args.num_train_epochs
    return math.ceil(epochs * max(1, an_epoch))


def _sft_config(arguments: Mapping[str, Any], folder: Path) -> Any:
    from trl import SFTConfig

    device = {} if torch.cuda.is_available() or torch.backends.mps.is_available() else {"use_cpu": True}
    known = {**QUIET, **device, "output_dir": str(folder), **arguments}
    return _made(SFTConfig, known, "training.arguments")


def _lora_config(arguments: Mapping[str, Any]) -> Any:
    from peft import LoraConfig

    return _made(LoraConfig, {"task_type": "CAUSAL_LM", **arguments}, "training.lora")


def _made(kind: Any, arguments: Mapping[str, Any], key: str) -> Any:
    valid = list(kind.__dataclass_fields__)
    for name in arguments:
        if name not in valid:
            near = get_close_matches(name, valid, n=1)
            remedy = f"did you mean {near[0]!r}?" if near else "take it out."
            raise ConfigError(describe(f"{key}.{name}", "an unknown key", f"an argument of {kind.__name__}", remedy))
    try:
        return kind(**arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(describe(key, error, f"arguments that {kind.__name__} accepts", "mend them.")) from error


def _whole(model: Any) -> nn.Module:
    """The model with its adapters merged in, so that all of its parameters are its own."""
    from peft import PeftModel

    merged: nn.Module = model.merge_and_unload() if isinstance(model, PeftModel) else model
    return merged


def _stop_after(steps: int) -> Any:
    from transformers import TrainerCallback

    class StopAfter(TrainerCallback):
        """Ends training, which goes on by the user's own schedule until then."""

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_training_stop = state.global_step >= steps

    return StopAfter()


def _mean_tokens(prepared: Any) -> float:
    """Tokens of a row that carry loss, on average."""
    return sum(_loss_tokens(row) for row in prepared) / len(prepared)


def _loss_tokens(row: Mapping[str, Any]) -> int:
    if "labels" in row:
        return sum(label != IGNORED for label in row["labels"][1:])
    mask = row.get("completion_mask") or row.get("assistant_masks") or [1] * len(row["input_ids"])
    return int(sum(mask[1:]))
