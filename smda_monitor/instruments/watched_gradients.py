"""∇ΔW_X,k of the watched features at one state of the model, for rows that are all judged from it.

A backward for every feature over the probes, begun at the hookpoint (`ProbeReader.feature_gradients`). All rows of an
audit start from one state, so the K gradients are taken once and kept, as those of the probes' targets are: K·p numbers
in float32 where they take a quarter of the reader's budget at most, else in bfloat16, as many as the whole of it holds.
The others (all parameters of a large model) are made again for every portion of rows, as many at a time as a quarter of
the budget holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from ..maths.portions import portions
from ..maths.probe_gradients import FlatGradients
from ..maths.watched import WatchedShifts
from .chat import PromptTokens
from .parameters import TrainedParameters
from .probe_reader import ProbeReader


def kept_gradients(
    reader: ProbeReader, watched: WatchedShifts, parameters: TrainedParameters
) -> tuple[int, torch.dtype]:
    """How many of the features' gradients are kept, the first ones, and in which type."""
    budget, whole = reader.memory_gib * 2**30, watched.count * parameters.size
    if 4 * whole <= budget / 4:
        return watched.count, torch.float32
    return min(watched.count, int(budget // (2 * parameters.size))), torch.bfloat16


def watched_gradients(
    reader: ProbeReader, prompts: Sequence[PromptTokens], watched: WatchedShifts, parameters: TrainedParameters
) -> Iterator[FlatGradients]:
    """Gradients of ΔW_X of the `watched` features of the m probes `prompts`, some features at a time, in their order;
    the model should be in eval mode (`quiet`) and in the state that rows start from.

    No more than a quarter of the reader's budget is held beside what the caller keeps. Raises `MeasurementError` for
    NaN or Inf, as `ProbeReader.features`.
    """
    for features in portions(watched.count, reader.vectors(parameters)):
        part = watched.part(slice(features.start, features.stop))
        yield FlatGradients(reader.feature_gradients(prompts, part.through_features, parameters))
