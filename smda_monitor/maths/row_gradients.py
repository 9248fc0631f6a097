"""Gradients by row over the flat vector of trained parameters."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class RowGradients:
    """n rows over p trained elements."""

    matrix: Tensor
    """(n, p)"""

    @property
    def rows(self) -> int:
        """n."""
        return self.matrix.shape[0]

    @property
    def size(self) -> int:
        """p."""
        return self.matrix.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.matrix.nbytes

    def dense(self, start: int, stop: int) -> Tensor:
        """(n, stop − start)"""
        return self.matrix[:, start:stop].float() if self.matrix.dtype == torch.bfloat16 else self.matrix[:, start:stop]

    def half(self) -> RowGradients:
        """The same in bfloat16."""
        return RowGradients(self.matrix.bfloat16())
