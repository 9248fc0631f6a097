"""What is captured of training rows: their tokens, losses and gradients."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from ..maths.row_gradients import RowGradients


def row_hash(ids: list[int]) -> str:
    """First 16 hex digits of the SHA-256 of the token ids as little-endian int64."""
    return hashlib.sha256(np.asarray(ids, dtype="<i8").tobytes()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class CapturedRow:
    """One training row as the trainer's forward saw it."""

    ids: list[int]
    """Its token ids without padding."""
    first_label: int
    """Index of the first token of its last answer, the last run of tokens that carry loss; −1 where none does, 0 where
    all do."""
    tokens: int
    """Tokens that carry loss."""

    @property
    def hash(self) -> str:
        """Identity by content."""
        return row_hash(self.ids)


@dataclass(frozen=True, slots=True)
class CapturedBatch:
    """The rows of one micro-batch."""

    rows: list[CapturedRow]
    """In their order."""
    losses: list[float]
    """Of each; NaN where unknown."""
    gradients: RowGradients
    """Of each."""
