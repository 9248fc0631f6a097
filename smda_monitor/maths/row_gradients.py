"""Gradients by row over the flat vector of all trained parameters, each kept formed or as factors.

A full fine-tuning has billions of elements, and n rows of them fit nowhere; but the gradient of a weight (out, in) over
t tokens has only t·(in + out) numbers in it. `RowGradients` keeps whichever is smaller and forms any range of the flat
vector on demand, so that all that follows can go through it range by range.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from .head_factors import Head, HeadFactors, head_factors
from .row_factors import DenseRows, EmbeddingFactors, LinearFactors, RowFactors

__all__ = [
    "DenseRows",
    "EmbeddingFactors",
    "Head",
    "HeadFactors",
    "LinearFactors",
    "RowAccumulator",
    "RowFactors",
    "RowGradients",
    "head_factors",
]


@dataclass(frozen=True, slots=True)
class Piece:
    """What one call of a module adds to some rows of one parameter."""

    row: int
    """The first of its rows."""
    start: int
    """First element of the parameter in the flat vector."""
    stop: int
    """One past its last."""
    factors: RowFactors
    """Its rows."""


@dataclass(frozen=True, slots=True)
class RowGradients:
    """Gradients of n rows over p elements. Made by `RowAccumulator`, joined by `RowGradients.joined`."""

    rows: int
    """n."""
    size: int
    """p."""
    matrix: Float[Tensor, "n q"]
    """All elements that are kept formed, in the order of the flat vector."""
    formed: tuple[tuple[int, int], ...]
    """(start, stop) in the flat vector of the parameters in `matrix`, in order."""
    pieces: tuple[Piece, ...]
    """All other parameters; what lies in no piece either is zero."""

    @property
    def nbytes(self) -> int:
        """Bytes held; what several factors share is counted once."""
        held = {id(t): t for piece in self.pieces for t in piece.factors.tensors}
        return sum(t.numel() * t.element_size() for t in [self.matrix, *held.values()])

    def dense(self, start: int, stop: int) -> Float[Tensor, "n range"]:
        """(n, stop − start) elements [start, stop) of every row, at least float32; a view where all are kept formed.

        Raises `ValueError` for a range outside [0, p].
        """
        if not 0 <= start <= stop <= self.size:
            raise ValueError(f"range {start}:{stop} of {self.size} elements")
        overlaps, column = [], 0
        for low, high in self.formed:
            if low < stop and start < high:
                overlaps.append((max(low, start), min(high, stop), column + max(low, start) - low))
            column += high - low
        if overlaps and sum(high - low for low, high, _ in overlaps) == stop - start:
            first = overlaps[0][2]
            return self.matrix[:, first : first + stop - start].to(self._full)
        found = self.matrix.new_zeros((self.rows, stop - start), dtype=self._full)
        for low, high, first in overlaps:
            found[:, low - start : high - start] = self.matrix[:, first : first + high - low]
        for piece in self.pieces:
            low, high = max(piece.start, start), min(piece.stop, stop)
            if low < high:
                rows = slice(piece.row, piece.row + piece.factors.rows)
                found[rows, low - start : high - start] += piece.factors.dense(low - piece.start, high - piece.start)
        return found

    @property
    def _full(self) -> torch.dtype:
        return torch.promote_types(self.matrix.dtype, torch.float32)

    @staticmethod
    def of(matrix: Float[Tensor, "n p"]) -> RowGradients:
        """Of rows that are all formed."""
        n, p = matrix.shape
        return RowGradients(n, p, matrix, ((0, p),), ())

    def half(self) -> RowGradients:
        """The same held in bfloat16, about half as large; `dense` still gives float32."""
        heads: dict[int, Head] = {}

        def halved(factors: RowFactors) -> RowFactors:
            if not isinstance(factors, HeadFactors):
                return factors.half()
            known = heads.get(id(factors.head.weight))
            made = factors.half() if known is None else factors.on(known)
            heads[id(factors.head.weight)] = made.head
            return made

        pieces = tuple(replace(piece, factors=halved(piece.factors)) for piece in self.pieces)
        return replace(self, matrix=self.matrix.bfloat16(), pieces=pieces)

    def summed(self) -> RowGradients:
        """Their sum as one row; all elements must be kept formed."""
        assert not self.pieces
        return replace(self, rows=1, matrix=self.matrix.sum(0, keepdim=True))

    @staticmethod
    def joined(parts: Sequence[RowGradients]) -> RowGradients:
        """The rows of all `parts`, at least one, in order.

        Raises `ValueError` where they are not over the same vector.
        """
        if len({part.size for part in parts}) != 1:
            raise ValueError(f"rows over {sorted({part.size for part in parts})} elements do not join")
        common = [bounds for bounds in parts[0].formed if all(bounds in part.formed for part in parts)]
        shared = set(common)
        matrices, pieces, row = [], [], 0
        for part in parts:
            columns, apart = part._columns(), [bounds for bounds in part.formed if bounds not in shared]
            if apart:
                matrices.append(torch.cat([part.matrix[:, :0], *(part.matrix[:, columns[b]] for b in common)], 1))
            else:
                matrices.append(part.matrix)
            pieces += [Piece(row, *b, DenseRows(part.matrix[:, columns[b]].clone())) for b in apart]
            pieces += [replace(piece, row=piece.row + row) for piece in part.pieces]
            row += part.rows
        matrix = matrices[0] if len(matrices) == 1 else torch.cat(matrices)
        return RowGradients(row, parts[0].size, matrix, tuple(common), tuple(pieces))

    def _columns(self) -> dict[tuple[int, int], slice]:
        """Where each formed parameter lies in the matrix."""
        found, column = {}, 0
        for low, high in self.formed:
            found[low, high] = slice(column, column + high - low)
            column += high - low
        return found


@dataclass(slots=True)
class RowAccumulator:
    """Adds up what the calls of one forward contribute to n rows; parameters without any contribution stay zero."""

    rows: int
    """n."""
    bounds: Sequence[tuple[int, int]]
    """(start, stop) of every parameter in the flat vector, without gap."""
    formed: Sequence[bool]
    """Whether a parameter is kept formed, in order."""
    device: torch.device | None = None
    """Where the formed ones lie."""
    zeros: Callable[..., Tensor] = torch.zeros
    """Makes their memory: of a shape, on a ``device``."""
    _matrix: Tensor = field(init=False)
    _columns: dict[int, slice] = field(init=False)
    _pieces: list[Piece] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self._columns, column = {}, 0
        for i, ((start, stop), formed) in enumerate(zip(self.bounds, self.formed, strict=True)):
            if formed:
                self._columns[i] = slice(column, column + stop - start)
                column += stop - start
        self._matrix = self.zeros(self.rows, column, device=self.device)

    def add(self, parameter: int, factors: RowFactors) -> None:
        """Adds one contribution to all rows of the parameter with that number."""
        start, stop = self.bounds[parameter]
        if parameter in self._columns:
            self._matrix[:, self._columns[parameter]] += factors.dense(0, stop - start).to(self._matrix.device)
        else:
            self._pieces.append(Piece(0, start, stop, factors))

    def result(self) -> RowGradients:
        """The sum; the accumulator's own memory, so nothing may be added afterwards."""
        formed = tuple(self.bounds[i] for i in self._columns)
        return RowGradients(self.rows, self.bounds[-1][1], self._matrix, formed, tuple(self._pieces))
