"""Which rows are in the trainer's own forward, their loss, and their gradients in its own backward.

One pre-hook on the causal model names the rows; a hook on every trained Linear layer keeps its latest input and, when
the output's gradient arrives, forms the rows' gradients. Under checkpointing the inner forward runs twice: the second
overwrites the first's input just before its backward needs it. Nothing is added to the graph.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..errors import MeasurementError, describe
from .linear_tap import row_gradients
from .parameters import TrainedParameters

IGNORED = -100
"""The label that carries no loss."""


def row_hash(ids: list[int]) -> str:
    """First 16 hex digits of the SHA-256 of the token ids as little-endian int64."""
    return hashlib.sha256(np.asarray(ids, dtype="<i8").tobytes()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class CapturedRow:
    """One training row as the trainer's forward saw it."""

    ids: list[int]
    """Its token ids without padding."""
    first_label: int
    """Index of the first token that carries loss; −1 where none does."""
    tokens: int
    """Tokens that carry loss."""

    @property
    def hash(self) -> str:
        """Identity by content."""
        return row_hash(self.ids)


class RowCapture:
    """Hooks on a model in training; `take` hands over what the micro-batches of one step left.

    Raises `MeasurementError` from `take` alone, never inside the trainer's forward or backward: where no row was seen,
    a batch had no ``input_ids``, or no gradient came back for a micro-batch.
    """

    def __init__(self, causal: nn.Module, parameters: TrainedParameters) -> None:
        self._causal = causal
        self._parameters = parameters
        self._rows: list[CapturedRow] = []
        self._losses: list[float] = []
        self._gradients: list[Tensor] = []
        self._arrived: list[bool] = []
        self._inputs: dict[int, Tensor] = {}
        self._failure: MeasurementError | None = None
        self._handles: list[RemovableHandle] = [
            causal.register_forward_pre_hook(self._on_forward, with_kwargs=True),
            causal.register_forward_hook(self._on_output),
        ]
        for i, layer in enumerate(parameters.layers):
            hook: Callable[..., None] = partial(self._on_layer, i)
            self._handles.append(layer.module.register_forward_hook(hook))

    def remove(self) -> None:
        """Takes all hooks off; the model is as before."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self.clear()

    def clear(self) -> None:
        """Forgets the open step."""
        self._rows, self._losses, self._gradients, self._arrived = [], [], [], []
        self._failure = None
        self._inputs.clear()

    @property
    def rows(self) -> Sequence[CapturedRow]:
        """The rows of the open step so far."""
        return self._rows

    def take(self) -> tuple[list[CapturedRow], list[float], Tensor]:
        """Rows, their losses (NaN where unknown) and gradients (n, p) since the last call, and forgets them."""
        rows, losses, gradients = self._rows, self._losses, self.gradients()
        self.clear()
        return rows, losses, gradients

    def gradients(self) -> Tensor:
        """(n, p) gradients of the open step's `rows`, which it goes on to hold; raises as `take`."""
        if self._failure is not None:
            raise self._failure
        if not self._rows:
            remedy = "use trl.SFTTrainer with per-row batches (no packing)."
            raise MeasurementError(describe("rows of the step", "none", "the trainer's forward to be seen", remedy))
        if not all(self._arrived):
            found = f"no gradient for {self._arrived.count(False)} of {len(self._arrived)} micro-batches"
            remedy = "let nothing but the trainer's own step run the model in train mode with gradients on."
            raise MeasurementError(describe("rows of the step", found, "one backward for each forward", remedy))
        return torch.cat(self._gradients)

    def _recording(self) -> bool:
        return self._failure is None and self._causal.training and torch.is_grad_enabled()

    def _on_forward(self, _module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if not self._recording():
            return
        ids = kwargs.get("input_ids", args[0] if args else None)
        if ids is None:
            found = ", ".join(sorted(kwargs))
            self._failure = MeasurementError(describe("training batch", found, "input_ids", "train on token ids."))
            return
        mask, labels = kwargs.get("attention_mask"), kwargs.get("labels")
        real = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
        for b in range(ids.shape[0]):
            tokens = ids[b][real[b]].tolist()
            carries = (ids[b] if labels is None else labels[b])[real[b]] != IGNORED
            first = int(carries.nonzero()[0]) if bool(carries.any()) else -1
            self._rows.append(CapturedRow(tokens, first, int(carries[1:].sum())))
        weight = self._parameters.layers[0].module.weight
        self._gradients.append(torch.zeros(ids.shape[0], self._parameters.size, device=weight.device))
        self._arrived.append(False)

    def _on_output(self, _module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        if not self._recording():
            return
        count = self._gradients[-1].shape[0]
        log_probs, mask = getattr(output, "log_probs", None), getattr(output, "label_mask", None)
        if log_probs is None or mask is None:
            self._losses += [float("nan")] * count
            return
        weight = mask.to(log_probs.dtype)
        mean = -(log_probs.detach() * weight).sum(-1) / weight.sum(-1)
        self._losses += mean.float().tolist()

    def _on_layer(self, i: int, _module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        if self._recording() and output.requires_grad and self._gradients:
            self._inputs[i] = args[0].detach()
            output.register_hook(partial(self._on_gradient, i))  # type: ignore[no-untyped-call]

    def _on_gradient(self, i: int, gradient: Tensor) -> None:
        if self._failure is not None:
            return
        layer = self._parameters.layers[i]
        if i not in self._inputs:
            found = f"{layer.name} used more than once in a forward"
            remedy = "train layers that each run once."
            self._failure = MeasurementError(describe("trained layer", found, "one use", remedy))
            return
        self._arrived[-1] = True
        rows = row_gradients(self._inputs.pop(i), gradient)
        self._gradients[-1][:, layer.start : layer.stop] += rows.to(self._gradients[-1].dtype)
