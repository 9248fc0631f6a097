"""Reads the training rows of a step on their own prompts: a probe that each row brings along."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..maths.account import OwnReading, unread
from ..maths.probe_gradients import ChunkedRows
from .assemble import Instruments
from .captured_rows import CapturedRow
from .chat import PromptTokens, generation_prompt, own_prompt
from .measurement import Measurement, in_order
from .parameters import TrainedParameters
from .quiet import quiet


@dataclass(frozen=True, slots=True)
class OwnPrompts:
    """n rows on their own prompts."""

    reading: OwnReading
    """Without the push, which is NaN still."""
    read: list[int]
    """The rows whose prompts were read here."""
    gradients: ChunkedRows | None
    """Of the contrast of each prompt in `read`; None where none was read."""

    def pushes(self, directions: Tensor) -> Tensor:
        """(n,) what the direction of each row, of `directions` (n, p), does to the contrast of its own prompt; nats,
        float64; NaN for a row whose prompt was not read here."""
        found = self.reading.push.clone()
        if self.gradients is not None:
            along = directions[self.read] * self.gradients.dense(0, directions.shape[1])
            found[self.read] = along.sum(1, dtype=torch.float64).cpu()
        return found


def prompts_of(instruments: Instruments, rows: Sequence[CapturedRow]) -> dict[int, PromptTokens]:
    """By its place, the own prompt of each of `rows` that has one; none where ``probes.own_prompts`` is off."""
    if not instruments.bench.config.probes.own_prompts:
        return {}
    like, opening = instruments.tokens([0])[0], generation_prompt(instruments.bench.tokenizer)
    found = [(i, own_prompt(row.ids, row.first_label, like, opening)) for i, row in enumerate(rows)]
    return {i: prompt for i, prompt in found if prompt is not None}


def read_own_prompts(
    instruments: Instruments, parameters: TrainedParameters, rows: Sequence[CapturedRow]
) -> OwnPrompts:
    """The `rows` on their own prompts (`prompts_of`); each rank reads a share of them, and has the gradients of those
    alone."""
    own, prompts = unread(len(rows), len(instruments.policy.feature_ids)), prompts_of(instruments, rows)
    if not prompts:
        return OwnPrompts(own, [], None)
    at, found = list(prompts), [OwnPrompts(own, [], None)]

    def measured(numbers: Sequence[int]) -> Measurement:
        here = [at[number] for number in numbers]
        read, gradients = instruments.reader.own([prompts[i] for i in here], parameters)
        found.append(OwnPrompts(own, here, gradients))
        return read

    with quiet(instruments.reader.model):
        whole = in_order(*instruments.ranks.by_share(len(at), measured))
    own.mass[at], own.X[at] = whole.readings.mass, whole.X.double()
    own.expected[at] = instruments.expected(whole)
    return found[-1]
