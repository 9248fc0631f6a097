"""Per-row gradients of Linear layers from their inputs and output gradients: ∇W of row b = Σ_t δ_bt a_btᵀ."""

from __future__ import annotations

from types import TracebackType

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from ..maths.row_gradients import RowGradients
from .parameters import TrainedParameters


def row_gradients(activations: Tensor, output_gradients: Tensor) -> Tensor:
    """(b, out·in) gradient of every row of a batch, for activations (b, t, in) and output gradients (b, t, out)."""
    return torch.einsum("bto,bti->boi", output_gradients, activations.to(output_gradients.dtype)).flatten(1)


class LinearTap:
    """While open, keeps the input and the output of every trained layer in every forward, for `rows`.

    The gradient goes through activations alone: no weight, frozen or trained, gets one of its own.
    """

    def __init__(self, parameters: TrainedParameters) -> None:
        self._parameters = parameters
        self._calls: list[tuple[int, Tensor, Tensor]] = []
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> LinearTap:
        for i, layer in enumerate(self._parameters.layers):

            def keep(_module: object, args: tuple[Tensor, ...], output: Tensor, i: int = i) -> None:
                self._calls.append((i, args[0].detach(), output))

            self._handles.append(layer.module.register_forward_hook(keep))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._calls.clear()

    def rows(self, scalar: Tensor) -> tuple[RowGradients, tuple[Tensor, ...]]:
        """Gradient of `scalar` = Σ_b f(row b) by row; the graph is kept for the next scalar.

        Layers that `scalar` does not depend on (those above a hookpoint) get zeros.
        """
        found = torch.autograd.grad(scalar, [c[2] for c in self._calls], retain_graph=True, allow_unused=True)
        flat = self._calls[0][2].new_zeros(self._calls[0][1].shape[0], self._parameters.size)
        for (i, inputs, _), gradient in zip(self._calls, found, strict=True):
            if gradient is not None:
                layer = self._parameters.layers[i]
                flat[:, layer.start : layer.stop] += row_gradients(inputs, gradient)
        return RowGradients(flat), ()
