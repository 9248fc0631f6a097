"""Earlier rows in the momentum buffer: which part of it is theirs.

A step leaves `kept`·c·g_i of each of its rows in the buffer, and every later step multiplies the buffer by `retained`
(`step_map`): for Adam the row of a step that lies Δ steps back holds β1^(Δ−1)·(1 − β1)·c·g_i of m. So momentum's part
of a step can be handed on to the rows whose gradients were kept; what is older stays in ``history``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from .row_gradients import RowGradients
from .split import TakenStep


@dataclass(frozen=True, slots=True)
class PastStep:
    """The rows of an earlier step and what of their gradients is in the momentum buffer."""

    number: int
    """The step."""
    rows: RowGradients
    """Their unclipped gradients."""
    weights: tuple[float, ...]
    """By part of the step map: the buffer holds weight·g_i of every row."""

    @classmethod
    def of(cls, taken: TakenStep) -> PastStep:
        """Just after its step."""
        return cls(
            taken.number, taken.rows, tuple(part.kept * taken.gradient.clip_factor for _, part in taken.step.parts)
        )

    def after(self, taken: TakenStep) -> PastStep:
        """After the further step `taken`."""
        parts = zip(self.weights, taken.step.parts, strict=True)
        return PastStep(self.number, self.rows, tuple(weight * part.retained for weight, (_, part) in parts))

    def half(self) -> PastStep:
        """With rows in half precision."""
        return PastStep(self.number, self.rows.half(), self.weights)


def weights_in_buffer(past: Sequence[PastStep], taken: Sequence[TakenStep]) -> list[list[Float64[Tensor, " h"]]]:
    """For each step of `taken` and each part of its map: the weight of every row that the buffer holds before it, those
    of `past` first and then of the steps taken before."""
    held, found = list(past), []
    for step in taken:
        parts = range(len(step.step.parts))
        by_row = [[one.weights[part] for one in held for _ in range(one.rows.rows)] for part in parts]
        found.append([torch.tensor(weights, dtype=torch.float64) for weights in by_row])
        held = [one.after(step) for one in held] + [PastStep.of(step)]
    return found


def remember(past: Sequence[PastStep], taken: Sequence[TakenStep], steps: int, limit: int) -> list[PastStep]:
    """`past` after the steps `taken`, those included: the last `steps` at most, in `limit` bytes at most."""
    held = list(past)
    for step in taken:
        held = [one.after(step) for one in held] + [PastStep.of(step)]
    kept: list[PastStep] = []
    for one in reversed(held[max(0, len(held) - steps) :] if steps else []):
        small = one.half()
        limit -= small.rows.nbytes
        if limit < 0:
            break
        kept.insert(0, small)
    return kept
