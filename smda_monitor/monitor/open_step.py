"""A step from the moment when its gradient is whole until its account is made. Wiring, no arithmetic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor

from ..errors import MeasurementError, describe
from ..instruments.assemble import Instruments
from ..instruments.captured_rows import CapturedBatch, CapturedRow
from ..instruments.kept_rows import halves, kept_rows
from ..instruments.optimizer_step import bare_optimizer, read_step
from ..instruments.parameters import TrainedParameters
from ..instruments.replay import RowReplays, replay_rows
from ..instruments.row_capture import RowCapture
from ..instruments.row_identity import RowNames
from ..instruments.training_ranks import TrainingRanks
from ..maths.account import RowFacts
from ..maths.row_gradients import RowGradients
from ..maths.split import StepGradient, TakenStep, step_gradient
from ..records.account import Method

CAPTURE_LIMIT = {"float32": 1e-3, "bfloat16": 5e-2}
"""Largest ‖Σ g_i·c − gradient‖/‖gradient‖ that is a rounding error, by the coarser type of the trainer's
forward and the gradient."""


@dataclass(frozen=True, slots=True)
class OpenStep:
    """One optimizer step that waits for its account."""

    number: int
    """The step, counted from 1."""
    rows: Sequence[CapturedRow]
    """Its rows."""
    facts: list[RowFacts]
    """What is known of them."""
    gradient: StepGradient
    """Its gradient."""
    taken: TakenStep | None
    """What the split needs; None where the optimizer's map is not known."""
    replays: RowReplays | None
    """Of the step without each row, where it is not."""
    learning_rate: float
    """Of the first parameter group."""
    answers: Tensor | None
    """(n, 2) what the rows' answers read (`rulers.read_answers`); None without reference answers."""
    halved: bool = False
    """Whether its rows' gradients wait in bfloat16."""

    def waiting(self, steps: int, memory_gib: float) -> OpenStep:
        """The same as one of so many `steps` that wait for their account: with its rows in bfloat16 where those of all
        would take more than an eighth of `memory_gib` in float32."""
        rows = self.gradient.rows
        if self.taken is None or not halves(steps * rows.nbytes, memory_gib):
            return self
        gradient = replace(self.gradient, rows=kept_rows(rows, True))
        return replace(self, gradient=gradient, taken=replace(self.taken, gradient=gradient), halved=True)

    @property
    def nbytes(self) -> int:
        """Bytes that it holds until its account: gradients, and the optimizer's state that the split needs."""
        maps = [part for _, part in self.taken.step.parts] if self.taken else []
        held = [self.gradient.clipped, *(getattr(part, f.name) for part in maps for f in fields(part))]  # type: ignore[arg-type]
        held += [self.replays.ends] if self.replays else []
        return self.gradient.rows.nbytes + sum(t.untyped_storage().nbytes() for t in held if isinstance(t, Tensor))


def open_step(
    method: Method,
    optimizer: Any,
    instruments: Instruments,
    parameters: TrainedParameters,
    capture: RowCapture,
    names: RowNames,
    answers: Tensor | None,
    args: Any,
    number: int,
) -> OpenStep:
    """The coming step, whose gradient is whole and clipped; under ``replay`` it is replayed without each row.

    Raises `MeasurementError` where the rows are not all of the optimizer's gradient.
    """
    rows, losses, gradients, answers = _of_all_ranks(instruments.ranks, capture.take_batches(), answers)
    gradient = step_gradient(gradients, parameters.gradient(), float(args.max_grad_norm or 0.0))
    coarse = args.bf16 or any(weight.element_size() < 4 for weight in parameters.weights)
    _check_capture(gradient, CAPTURE_LIMIT["bfloat16" if coarse else "float32"], args.max_grad_norm, number)
    facts = [
        RowFacts(names.name(row), row.hash, row.tokens, loss, norm)
        for row, loss, norm in zip(rows, losses, gradient.norms.tolist(), strict=True)
    ]
    taken = TakenStep(number, gradient, read_step(optimizer, parameters)) if method == "split" else None
    replays = None if taken else replay_rows(optimizer, instruments, parameters, gradient, number)
    rate = float(bare_optimizer(optimizer).param_groups[0]["lr"])
    return OpenStep(number, rows, facts, gradient, taken, replays, rate, answers)


def _of_all_ranks(
    ranks: TrainingRanks, batches: list[CapturedBatch], answers: Tensor | None
) -> tuple[list[CapturedRow], list[float], RowGradients, Tensor | None]:
    """The rows of the step in the order in which one process would have them: micro-batch by micro-batch, of which each
    rank has a part."""
    sizes = [len(batch.rows) for batch in batches]
    own = list(zip(batches, [None] * len(sizes) if answers is None else torch.split(answers, sizes), strict=True))
    turns = [part for turn in zip_longest(*ranks.gather(own)) for part in turn if part is not None]
    read = [found for _, found in turns if found is not None]
    return (
        [row for batch, _ in turns for row in batch.rows],
        [loss for batch, _ in turns for loss in batch.losses],
        RowGradients.joined([batch.gradients for batch, _ in turns]),
        torch.cat(read) if read else None,
    )


def _check_capture(gradient: StepGradient, limit: float, max_norm: float | None, number: int) -> None:
    if not gradient.capture_error <= limit or not math.isfinite(gradient.clip_factor):
        found = f"rows' gradients that miss {gradient.capture_error:.1%} of the optimizer's at step {number}"
        remedy = "train with SFTTrainer's own loss; another callback or hook changes gradients."
        raise MeasurementError(describe("capture", found, f"at most {limit:.1%}", remedy))
    if not abs(gradient.scaled - 1) <= limit:  # what else scales it would scale it otherwise without a row
        found = f"a gradient {gradient.scaled:.3g} times that of the rows, clipped, at step {number}"
        remedy = "leave clipping to max_grad_norm; another callback or hook scales gradients."
        raise MeasurementError(describe("capture", found, f"that which max_grad_norm {max_norm} gives", remedy))
