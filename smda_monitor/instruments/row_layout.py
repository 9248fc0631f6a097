"""Where the rows of a forward lie in its batch: one to a line, or, packed or free of padding, all in one sequence.

Rows of one sequence are told apart by where their positions begin again, as the model itself tells them apart. Spread
to lines they are a batch like any other: what is behind a row's end is zero, and so adds nothing to its gradients.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import MeasurementError, describe

IGNORED = -100
"""The label that carries no loss."""


@dataclass(frozen=True, slots=True)
class RowLayout:
    """The n rows of a batch (b, t)."""

    lines: Tensor | None
    """(n, L) place of each row's tokens in the one sequence, −1 behind its end; None where rows are lines already."""
    tokens: int = 0
    """T, the length of the one sequence."""

    def spread(self, tensor: Tensor, fill: float = 0) -> Tensor:
        """(n, L, …) the rows of `tensor` (b, t, …), with `fill` behind their ends; (1, T, …) or (1, heads, T, …) where
        they lie in one sequence.

        Raises `MeasurementError` for a tensor of another shape."""
        if self.lines is None:
            return tensor
        if tensor.dim() > 3 and tensor.shape[1] != self.tokens:
            tensor = tensor.transpose(1, 2)
        if tensor.shape[:2] != (1, self.tokens):
            shape, expected = f"a tensor of shape {tuple(tensor.shape)}", f"(1, {self.tokens}, …)"
            remedy = "set packing=False and padding_free=False, or leave the module frozen."
            raise MeasurementError(describe("rows of one sequence", shape, expected, remedy))
        found = tensor[0][self.lines.clamp(min=0)]
        behind = (self.lines < 0).view(*self.lines.shape, *[1] * (tensor.dim() - 2))
        return found.masked_fill(behind, fill)

    @property
    def before_next(self) -> RowLayout:
        """Of a batch (b, t − 1) that has a place for every token but the first, where it is predicted."""
        if self.lines is None:
            return self
        return RowLayout(torch.where(self.lines[:, 1:] < 0, -1, self.lines[:, :-1]), self.tokens - 1)


@dataclass(frozen=True, slots=True)
class BatchRows:
    """The n rows of one forward, as lines of L tokens."""

    layout: RowLayout
    """How they got there."""
    ids: Tensor | None
    """(n, L) their tokens; None where the model was given embeddings."""
    labels: Tensor | None
    """(n, L) their labels; None where the model was given none."""
    real: Tensor
    """(n, L) what is no padding."""

    @property
    def carries(self) -> Tensor:
        """(n, L) the tokens that carry loss, all where there are no labels."""
        return self.real if self.labels is None else (self.labels != IGNORED) & self.real


def batch_rows(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> BatchRows | None:
    """The rows that a causal model is called on with these arguments; None where it is given neither tokens nor
    labels."""
    ids, labels = kwargs.get("input_ids", args[0] if args else None), kwargs.get("labels")
    tokens, mask = labels if ids is None else ids, kwargs.get("attention_mask")
    if tokens is None:
        return None
    layout = RowLayout(None) if mask is not None else _in_one_sequence(tokens, kwargs.get("position_ids"))
    if layout.lines is None:
        real = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask.bool()
        return BatchRows(layout, ids, labels, real)
    real = layout.lines >= 0
    if labels is not None:
        labels = layout.spread(labels, IGNORED)
        # A row's first token is predicted from none of its own: its label was taken away, whatever it was.
        labels = torch.cat([torch.where(labels[:, 1:2] == IGNORED, IGNORED, 0), labels[:, 1:]], dim=1)
    return BatchRows(layout, None if ids is None else layout.spread(ids), labels, real)


def _in_one_sequence(tokens: Tensor, positions: Tensor | None) -> RowLayout:
    if positions is None or tokens.shape[0] != 1 or positions.shape != tokens.shape:
        return RowLayout(None)
    starts = (positions[0] == 0).nonzero().flatten()
    ends = torch.cat([starts[1:], starts.new_tensor([tokens.shape[1]])])
    # Padding to a multiple begins anew at every token. No row has a single token that carries loss.
    kept = ends - starts > 1
    if not bool(kept.any()):
        return RowLayout(None)
    starts, ends = starts[kept], ends[kept]
    within = torch.arange(int((ends - starts).max()), device=tokens.device)
    lines = starts[:, None] + within
    return RowLayout(torch.where(lines < ends[:, None], lines, -1), tokens.shape[1])


def prepared_rows(prepared: Any) -> Iterator[dict[str, Any]]:
    """The rows of a trainer's prepared data set, each by itself also where several are packed into one."""
    for row in prepared:
        lengths = row.get("seq_lengths")
        if lengths is None:
            yield row
            continue
        first, columns = 0, {name: value for name, value in row.items() if name != "seq_lengths"}
        for length in lengths:
            yield {name: value[first : first + length] for name, value in columns.items()}
            first += length
