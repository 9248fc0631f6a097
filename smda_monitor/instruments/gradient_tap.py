"""Gradients by row of scalars of one or more forwards, with respect to everything that trains.

A scalar that is a sum over rows, each of which depends on its own row alone, gives all rows' gradients from one
backward: at every output of a trained module the gradient's line b belongs to row b (`module_rows`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.utils.hooks import RemovableHandle

from ..errors import MeasurementError, describe
from ..maths.row_gradients import DenseRows, RowAccumulator, RowFactors, RowGradients
from .module_rows import Inputs, kept_inputs, module_rows, no_tensor, norm_contributions, spread_rows
from .parameters import TrainedModule, TrainedParameters

ByPlace = Sequence["Tensor | Sequence[Tensor | None] | None"]
"""Gradients of several scalars at each of several places; None at one that none of them depends on."""


class GradientTap:
    """While open, keeps the inputs of every call of a trained module, and the place of its output in the graph.

    Several forwards of the same rows may run while it is open: what they contribute adds up. Calls whose output needs
    no gradient are passed over. The gradient goes through activations alone: no weight, frozen or trained, gets one of
    its own. It is the whole derivative, also of DoRA, whose own backward holds a norm constant that moves.
    """

    def __init__(self, parameters: TrainedParameters) -> None:
        self._parameters = parameters
        self._calls: list[tuple[TrainedModule, Inputs, GradientEdge]] = []
        self._rows = 0
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> GradientTap:
        for owner in self._parameters.modules:
            keep: Callable[..., Tensor | None] = partial(self._keep, owner)
            self._handles.append(owner.module.register_forward_hook(keep, with_kwargs=True))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._calls.clear()
        self._rows = 0

    def _keep(
        self, owner: TrainedModule, _module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any
    ) -> Tensor | None:
        if not isinstance(output, Tensor):
            raise no_tensor(owner, output)
        if not output.requires_grad:
            return None
        args, output, spread = spread_rows(owner, args, output, self._rows)
        if output.dim() > 2 and self._rows == 0:
            self._rows = output.shape[0]  # DoRA also runs its matrices on a unit matrix, which has no rows
        self._calls.append((owner, kept_inputs(owner, args, kwargs), get_gradient_edge(output)))
        return spread

    def rows(self, *scalars: Tensor) -> Iterator[RowGradients]:
        """Gradients by row of each of `scalars`, Σ_b f(row b), one after the other.

        Parameters that a scalar does not depend on (those above a hookpoint) get zeros. Raises `MeasurementError` where
        no trained module ran, or one not on the rows.
        """
        if not self._rows:
            remedy = "run the model with gradients on while the tap is open."
            raise MeasurementError(describe("gradients by row", "no call of a trained module", "some", remedy))
        found = _backward(scalars, [edge for _, _, edge in self._calls])
        for i in range(len(scalars)):
            yield self._formed([None if gradient is None else gradient[i] for gradient in found])

    def _formed(self, found: Sequence[Tensor | None]) -> RowGradients:
        """The rows' gradients of one scalar from its gradients at the calls' outputs."""
        contributions: list[tuple[int, RowFactors]] = []
        numbers = {id(weight): number for number, weight in enumerate(self._parameters.weights)}
        for (owner, inputs, _), gradient in zip(self._calls, found, strict=True):
            if gradient is not None:
                here = module_rows(owner, inputs, gradient, self._rows)
                contributions += here
                if owner.kind == "magnitude":
                    contributions += norm_contributions(owner, inputs, here[0][1], numbers)
        sizes = [0] * len(self._parameters.tensors)
        formed = [True] * len(sizes)
        for number, factors in contributions:
            sizes[number] += sum(t.numel() for t in factors.tensors)
            formed[number] &= isinstance(factors, DenseRows)
        for number, tensor in enumerate(self._parameters.tensors):
            formed[number] |= 0 < self._rows * tensor.parameter.numel() <= sizes[number]
        device = self._parameters.weights[0].device
        accumulator = RowAccumulator(self._rows, self._parameters.bounds, formed, device)
        for number, factors in contributions:
            accumulator.add(number, factors)
        return accumulator.result()


def _backward(scalars: Sequence[Tensor], at: Sequence[GradientEdge]) -> ByPlace:
    """Gradients of all `scalars` at the places.

    On a CPU one backward takes all of them, as a batch: fewer and larger operations. One that cannot be batched (a
    function with a backward of its own) runs once for each.
    """
    places: Any = list(at)
    if len(scalars) > 1 and scalars[0].device.type == "cpu":
        each = torch.eye(len(scalars), dtype=scalars[0].dtype)
        options: Any = {"retain_graph": True, "allow_unused": True, "is_grads_batched": True}
        try:
            found: ByPlace = torch.autograd.grad(torch.stack(tuple(scalars)), places, each, **options)
            return found
        except RuntimeError:
            pass  # what is wrong with the backward itself comes up again below
    alone = [torch.autograd.grad(s, places, retain_graph=True, allow_unused=True) for s in scalars]
    return [None if all(g is None for g in here) else here for here in zip(*alone, strict=True)]
