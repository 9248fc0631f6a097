"""What each row of a step did to the watched features through feature activation: two ways, one figure (n, K).

    backward   ⟨δ_i, ∇ΔW_X,k⟩ at the step's end: a backward for every feature, begun at the hookpoint; first order
    replay     ΔW_X,k of X(θ) − X(θ − δ_i): a forward for every row that ends at the hookpoint; first order in the row's
               whole finite ΔX, with gate switches and curvature of the model

θ are the parameters after the step, δ_i what the step would have lacked without row i, exact (`maths.split`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from ..maths.portions import portions
from ..maths.read_split import read_pushes
from ..maths.split import SLAB, TakenStep, directions
from ..maths.watched import WatchedShifts
from .chat import PromptTokens
from .parameters import TrainedParameters
from .probe_reader import ProbeReader
from .sharded import placed
from .watched_gradients import watched_gradients


def pushes_by_backward(
    reader: ProbeReader,
    prompts: Sequence[PromptTokens],
    watched: WatchedShifts,
    parameters: TrainedParameters,
    taken: TakenStep,
) -> Tensor:
    """(n, K) pushes of the n rows of the step just `taken`, float64; the model should be in eval mode (`quiet`).

    As many features at a time as a quarter of the reader's budget holds gradients of.
    """
    parts = watched_gradients(reader, prompts, watched, parameters)
    return torch.cat([read_pushes(taken, part, part.count) for part in parts], dim=1)


def pushes_by_replay(
    reader: ProbeReader,
    prompts: Sequence[PromptTokens],
    watched: WatchedShifts,
    parameters: TrainedParameters,
    taken: TakenStep,
) -> Tensor:
    """As `pushes_by_backward`. Parameters are set to θ − δ_i in their own type, and put back bit for bit, also after an
    exception. As many rows' parameters at a time as a quarter of the reader's budget holds."""
    return watched.by_replay(reader.features(prompts), _features_without(reader, prompts, parameters, taken))


def _features_without(
    reader: ProbeReader, prompts: Sequence[PromptTokens], parameters: TrainedParameters, taken: TakenStep
) -> Iterator[Tensor]:
    """(m, d) features at θ − δ_i, row after row."""
    end = parameters.flatten(parameters.weights)
    for rows in portions(taken.rows.rows, reader.vectors(parameters)):
        for theta in _without(end, taken, rows):
            with _set_to(parameters, theta):
                yield reader.features(prompts)


def _without(end: Tensor, taken: TakenStep, rows: range) -> Tensor:
    """(rows, p) θ − δ_i in the type of `end` (θ)."""
    found = end.new_empty(len(rows), len(end))
    for _, start, stop, step in taken.step.slabs(SLAB):
        push = directions(taken.gradient, step, start, stop).push[rows.start : rows.stop]
        found[:, start:stop] = end[start:stop].double() - push
    return found


@contextmanager
def _set_to(parameters: TrainedParameters, theta: Tensor) -> Iterator[None]:
    """The model at the flat parameters `theta`; as before afterwards."""
    before = [weight.detach().clone() for weight in parameters.weights]
    try:
        _write(parameters, parameters.split(theta))
        yield
    finally:
        _write(parameters, before)


def _write(parameters: TrainedParameters, values: Sequence[Tensor]) -> None:
    for weight, value in zip(parameters.weights, values, strict=True):
        weight.data.copy_(placed(value, weight))
