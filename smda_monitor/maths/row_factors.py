"""Gradients by row of one trained parameter, kept as they come: formed already, or as the factors of their sum over
tokens. With a_t a token's input, δ_t its output gradient, of row b alone:

    Linear      ∇W = Σ_t δ_t a_tᵀ             Embedding    ∇E[v] = Σ_{t: id_t = v} δ_t

All classes are `RowFactors`: any range of the parameter's flattened elements can be formed without the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor


@runtime_checkable
class RowFactors(Protocol):
    """The gradients by row of one parameter with m elements, from one call of its module."""

    @property
    def rows(self) -> int:
        """Rows b."""

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """What is held, for counting bytes; a tensor shared with other factors is the same object."""

    def dense(self, start: int, stop: int) -> Float[Tensor, "b range"]:
        """Elements [start, stop) of the flattened gradient of every row, float32."""

    def half(self) -> RowFactors:
        """The same with everything that is float held in bfloat16."""


@dataclass(frozen=True, slots=True)
class DenseRows:
    """Gradients that are formed already."""

    values: Float[Tensor, "b m"]
    """One row each."""

    @property
    def rows(self) -> int:
        """Rows b."""
        return self.values.shape[0]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """What is held."""
        return (self.values,)

    def dense(self, start: int, stop: int) -> Float[Tensor, "b range"]:
        """As `RowFactors.dense`."""
        return self.values[:, start:stop].float()

    def half(self) -> DenseRows:
        """As `RowFactors.half`."""
        return DenseRows(self.values.bfloat16())


@dataclass(frozen=True, slots=True)
class LinearFactors:
    """Σ_t δ_t a_tᵀ, the gradient of a weight (out, in), row-major.

    A weight stored as (in, out) takes the two the other way round.
    """

    inputs: Float[Tensor, "b t in"]
    """a: what went into the layer."""
    output_gradients: Float[Tensor, "b t out"]
    """δ: the gradient at its output."""

    @property
    def rows(self) -> int:
        """Rows b."""
        return self.inputs.shape[0]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """What is held."""
        return self.inputs, self.output_gradients

    def dense(self, start: int, stop: int) -> Float[Tensor, "b range"]:
        """As `RowFactors.dense`; only the output columns that the range touches are formed."""
        first, last = _lines(start, stop, self.inputs.shape[2])
        gradients, inputs = self.output_gradients[:, :, first:last].float(), self.inputs.float()
        # The product with the longer lines is several times faster on a CPU.
        if gradients.shape[2] > inputs.shape[2]:
            found = (inputs.transpose(1, 2) @ gradients).transpose(1, 2)
        else:
            found = gradients.transpose(1, 2) @ inputs
        return _cut(found, start, stop, first)

    def half(self) -> LinearFactors:
        """As `RowFactors.half`."""
        return LinearFactors(self.inputs.bfloat16(), self.output_gradients.bfloat16())


@dataclass(frozen=True, slots=True)
class EmbeddingFactors:
    """Σ_{t: id_t = v} δ_t, the gradient of an embedding's line v, of a matrix (vocabulary, d)."""

    ids: Int64[Tensor, "b t"]
    """The tokens looked up; a negative one is looked up by nobody (padding)."""
    gradients: Float[Tensor, "b t d"]
    """δ: the gradient at the embedding's output."""

    @property
    def rows(self) -> int:
        """Rows b."""
        return self.ids.shape[0]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """What is held."""
        return self.ids, self.gradients

    def dense(self, start: int, stop: int) -> Float[Tensor, "b range"]:
        """As `RowFactors.dense`; only the lines of the vocabulary that the range touches are formed."""
        (b, _), d = self.ids.shape, self.gradients.shape[2]
        first, last = _lines(start, stop, d)
        here = (self.ids >= first) & (self.ids < last)
        line = torch.arange(b, device=self.ids.device)[:, None] * (last - first) + self.ids - first
        found = self.gradients.new_zeros((b * (last - first), d), dtype=torch.float32)
        found.index_add_(0, line[here], self.gradients[here].float())
        return _cut(found.reshape(b, last - first, d), start, stop, first)

    def half(self) -> EmbeddingFactors:
        """As `RowFactors.half`."""
        return EmbeddingFactors(self.ids, self.gradients.bfloat16())


def _lines(start: int, stop: int, width: int) -> tuple[int, int]:
    """The lines [first, last) of a row-major matrix with `width` columns that elements [start, stop) lie in."""
    return start // width, -(-stop // width)


def _cut(lines: Tensor, start: int, stop: int, first: int) -> Tensor:
    """(b, stop − start) of (b, lines, width), whose line 0 is the matrix's line `first`."""
    offset = first * lines.shape[2]
    return lines.flatten(1)[:, start - offset : stop - offset]
