"""Matrices over the flat vector of trained elements, read slice by slice, so that a fully tuned model fits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

LONGEST = 1 << 20
"""Elements of the flat vector that are in hand at a time."""


class Rows(Protocol):
    """An (n, p) matrix of which any columns can be had."""

    def dense(self, start: int, stop: int) -> Tensor:
        """(n, stop − start) columns start … stop − 1."""


@dataclass(frozen=True, slots=True)
class Slice:
    """Neighbouring elements of one parameter."""

    parameter: int
    """Index of the parameter in the flat vector's order."""
    start: int
    """First element, in the flat vector."""
    stop: int
    """One past the last, in the flat vector."""
    offset: int
    """First element, in the flattened parameter."""

    @property
    def inside(self) -> slice:
        """Where it lies in the flattened parameter."""
        return slice(self.offset, self.offset + self.stop - self.start)


def slices(weights: Sequence[Tensor], longest: int = LONGEST) -> Iterator[Slice]:
    """All of the flat vector of `weights`, in order, `longest` elements at most at a time."""
    begin = 0
    for i, weight in enumerate(weights):
        for offset in range(0, weight.numel(), longest):
            stop = min(offset + longest, weight.numel())
            yield Slice(i, begin + offset, begin + stop, offset)
        begin += weight.numel()
