"""Gradients of the columns (`targets`) by probe, as the chunks of a probe pass left them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..records.account import READINGS
from .row_gradients import RowGradients


@dataclass(frozen=True, slots=True)
class ChunkedRows:
    """Gradients by row of n rows that were measured in chunks."""

    chunks: tuple[tuple[tuple[int, ...], RowGradients], ...]
    """(places of the chunk's rows among the n, their gradients)."""

    def dense(self, start: int, stop: int) -> Float[Tensor, "n q"]:
        """Over the elements from `start` to before `stop`, rows in their order."""
        order = torch.tensor([place for places, _ in self.chunks for place in places]).argsort()
        found = torch.cat([rows.dense(start, stop) for _, rows in self.chunks])
        return found[order.to(found.device)]


@dataclass(frozen=True, slots=True)
class ProbeGradients:
    """Gradients of the C = 1 + 3m columns at one set of parameters. `ColumnGradients` of `read_split`."""

    S_X: ChunkedRows
    """Of each probe's part of S_X, m rows."""
    readings: dict[str, ChunkedRows]
    """Of each reading of `READINGS`, m rows each."""

    def dense(self, start: int, stop: int) -> Float[Tensor, "C q"]:
        """S_X, then every reading of every probe."""
        whole = self.S_X.dense(start, stop).sum(0, keepdim=True)
        return torch.cat([whole, *(self.readings[name].dense(start, stop) for name in READINGS)])
