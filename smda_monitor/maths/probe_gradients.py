"""Gradients of the columns (`targets`) by probe, as the chunks of a probe pass left them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
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

    def among(self, numbers: Sequence[int]) -> ChunkedRows:
        """The same rows as those with these `numbers` among more."""
        return ChunkedRows(tuple((tuple(numbers[place] for place in places), rows) for places, rows in self.chunks))

    def blocks(self, start: int, stop: int) -> Iterator[tuple[Int64[Tensor, " c"], Float[Tensor, "c q"]]]:
        """The same as it lies in memory: (places of some rows, their gradients), each row once."""
        for places, rows in self.chunks:
            yield torch.tensor(places), rows.dense(start, stop)


@dataclass(frozen=True, slots=True)
class ProbeGradients:
    """Gradients of the C = 1 + 3m columns at one set of parameters. `ColumnGradients` of `read_split`.

    Where several processes share the probes each has the columns of its own, and of S_X its own part: what is linear in
    the gradients is the sum of what all find.
    """

    S_X: ChunkedRows
    """Rows that add up to that of S_X, whose parts by probe no target asks for."""
    readings: dict[str, ChunkedRows]
    """Of each reading of `READINGS`, one row for each probe that was measured here."""
    probes: int
    """m."""

    def among(self, numbers: Sequence[int], probes: int) -> ProbeGradients:
        """The same as those of the probes `numbers` among so many `probes`."""
        return ProbeGradients(self.S_X, {name: rows.among(numbers) for name, rows in self.readings.items()}, probes)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(rows.nbytes for of in (self.S_X, *self.readings.values()) for _, rows in of.chunks)

    @staticmethod
    def nothing(probes: int) -> ProbeGradients:
        """Of a process that measured none of the `probes`."""
        return ProbeGradients(ChunkedRows(()), {name: ChunkedRows(()) for name in READINGS}, probes)

    def dense(self, start: int, stop: int) -> Float[Tensor, "C q"]:
        """S_X, then every reading of every probe measured here."""
        whole = self.S_X.dense(start, stop).sum(0, keepdim=True)
        return torch.cat([whole, *(self.readings[name].dense(start, stop) for name in READINGS)])

    def blocks(self, start: int, stop: int) -> Iterator[tuple[Int64[Tensor, " c"], Float[Tensor, "c q"]]]:
        """The same as it lies in memory: (numbers of some columns, their gradients), each column once."""
        parts = [gradients.sum(0, keepdim=True) for _, gradients in self.S_X.blocks(start, stop)]
        if parts:
            yield torch.zeros(1, dtype=torch.int64), torch.stack(parts).sum(0)
        for i, name in enumerate(READINGS):
            for places, gradients in self.readings[name].blocks(start, stop):
                yield 1 + i * self.probes + places, gradients


@dataclass(frozen=True, slots=True)
class FlatGradients:
    """Gradients of K columns, each one vector. `ColumnGradients` of `read_split`."""

    matrix: Float[Tensor, "K p"]
    """float32 or bfloat16."""

    @staticmethod
    def joined(parts: Iterable[FlatGradients], columns: int, kind: torch.dtype) -> FlatGradients:
        """The K = `columns` ≥ 1 of all `parts`, kept in the type `kind` as they come."""
        waiting = iter(parts)
        part, first = next(waiting), 0
        matrix = part.matrix.new_empty(columns, part.matrix.shape[1], dtype=kind)
        while first < columns:
            matrix[first : first + part.count] = part.matrix
            first += part.count
            part = next(waiting, part)
        return FlatGradients(matrix)

    @property
    def count(self) -> int:
        """K."""
        return len(self.matrix)

    def blocks(self, start: int, stop: int) -> Iterator[tuple[Int64[Tensor, " K"], Float[Tensor, "K q"]]]:
        """Over the elements from `start` to before `stop`: every column, in float32."""
        yield torch.arange(self.count), self.matrix[:, start:stop].float()


@dataclass(frozen=True, slots=True)
class FurtherColumns:
    """C columns and K more behind them. `ColumnGradients` of `read_split`."""

    first: ProbeGradients
    """Of the C columns."""
    count: int
    """C."""
    further: FlatGradients
    """Of the K others, numbered from C."""

    def blocks(self, start: int, stop: int) -> Iterator[tuple[Int64[Tensor, " c"], Float[Tensor, "c q"]]]:
        """The blocks of the first, then those of the others."""
        yield from self.first.blocks(start, stop)
        for places, gradients in self.further.blocks(start, stop):
            yield self.count + places, gradients
