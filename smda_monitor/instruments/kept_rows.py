"""Gradients by row as they are kept from step to step: apart from the heap, and in half precision where asked for."""

from __future__ import annotations

from dataclasses import replace

from ..maths.row_gradients import RowGradients
from .heap import kept_apart


def halves(nbytes: int, memory_gib: float) -> bool:
    """Whether what takes so many bytes in float32 is kept in bfloat16: over an eighth of the budget `memory_gib`."""
    return nbytes > memory_gib * 2**30 / 8


def kept_rows(rows: RowGradients, half: bool) -> RowGradients:
    """`rows`, where `half` in bfloat16 (`RowGradients.half`)."""
    kept = rows.half() if half else rows
    return replace(kept, matrix=kept_apart(kept.matrix))
