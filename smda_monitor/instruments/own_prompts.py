"""Reads the training rows of a step on their own prompts: a probe that each row brings along."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..maths.account import OwnReading, unread
from .assemble import Instruments
from .chat import generation_prompt, own_prompt
from .parameters import TrainedParameters
from .quiet import quiet
from .row_capture import CapturedRow


def read_own_prompts(
    instruments: Instruments, parameters: TrainedParameters, rows: Sequence[CapturedRow], directions: Tensor
) -> OwnReading:
    """`directions` (n, p) of the n `rows`, each read on the contrast of its own prompt; NaN for rows without one, and
    for all where ``probes.own_prompts`` is off."""
    own = unread(len(rows), len(instruments.policy.feature_ids))
    if not instruments.bench.config.probes.own_prompts:
        return own
    like, opening = instruments.tokens([0])[0], generation_prompt(instruments.bench.tokenizer)
    found = [(i, own_prompt(row.ids, row.first_label, like, opening)) for i, row in enumerate(rows)]
    prompts = {i: prompt for i, prompt in found if prompt is not None}
    if prompts:
        at = list(prompts)
        with quiet(instruments.reader.model):
            measured, push = instruments.reader.own(list(prompts.values()), parameters, directions[at])
        own.push[at], own.mass[at], own.X[at] = push, measured.readings.mass, measured.X.double()
    return own
