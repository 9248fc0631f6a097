"""What one pass over prompts measured: put together from its chunks, in the prompts' order, on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial

import torch
from torch import Tensor

from ..errors import MeasurementError, describe
from ..maths.readings import Readings

_READINGS = tuple(field.name for field in fields(Readings))


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one pass over n prompts measured, rows in their order."""

    X: Tensor
    """(n, d) gated features, float32."""
    readings: Readings
    """Readings of the behaviour, float64."""
    hidden: Tensor
    """(n, d_in) residual stream at the read position, float32."""


def detached(hidden: Tensor, X: Tensor, readings: Readings) -> Measurement:
    """A chunk's measurement, off the graph and the device."""
    return Measurement(
        X.detach().cpu(), Readings(*(getattr(readings, n).detach().cpu() for n in _READINGS)), hidden.detach().cpu()
    )


def joined(tensors: list[Tensor], back: Tensor) -> Tensor:
    """Chunks put together, rows in the order of `back`. Raises `MeasurementError` for NaN or Inf, naming the first
    prompt's number."""
    whole = torch.cat(tensors)[back]
    if not bool(whole.isfinite().all()):
        bad = int((~whole.isfinite().reshape(whole.shape[0], -1).all(1)).nonzero()[0])
        remedy = "look at the loss and the learning rate: the model's activations have blown up."
        raise MeasurementError(describe(f"snapshot, prompt number {bad}", "NaN or Inf", "finite figures", remedy))
    return whole


def in_order(parts: Sequence[Measurement], order: Sequence[int]) -> Measurement:
    """The measurement of all chunks; `order`: the numbers of their prompts, one after the other. Raises as `joined`."""
    join = partial(joined, back=torch.tensor(order).argsort())
    return Measurement(
        join([part.X for part in parts]),
        Readings(*(join([getattr(part.readings, name) for part in parts]) for name in _READINGS)),
        join([part.hidden for part in parts]),
    )
