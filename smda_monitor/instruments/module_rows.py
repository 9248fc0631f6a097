"""The rows' gradients of one call of a module, from what went in and the gradient δ at what came out.

    Linear, Conv1D    Σ_t δ_t a_tᵀ of the weight, Σ_t δ_t of the bias
    Embedding         δ_t added to the line of token t
    DoRA's magnitude  Σ_t δ_t ∘ (V x_t)/‖V‖ (`dora_rows`)
    AdaLoRA's layer   `svd_rows`
    any other         the vector-Jacobian product of the module, run again on each row alone

The last is exact for every module that treats rows apart, as norms do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import MeasurementError, describe
from ..maths.row_gradients import DenseRows, EmbeddingFactors, LinearFactors, RowFactors
from .dora_rows import direction, magnitude_rows, norm_rows
from .parameters import TrainedModule
from .sharded import whole
from .svd_rows import svd_rows


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a call needs to be remembered by."""

    tensors: tuple[Tensor, ...]
    """Its positional tensors, detached."""
    named: Mapping[str, Any]
    """What DoRA's layer was given by name; empty for all others."""


def needs_inputs(owner: TrainedModule) -> bool:
    """Whether the rows of this module depend on what went in; a bias's do not."""
    return owner.kind not in ("linear", "conv1d") or "weight" in owner.own


def kept_inputs(owner: TrainedModule, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Inputs:
    """What to keep of a call with these arguments.

    Raises `MeasurementError` for a call that is not on tensors by position.
    """
    if not needs_inputs(owner):
        return Inputs((), {})
    if owner.kind == "magnitude":
        return Inputs((args[0].detach(),), {k: kwargs[k] for k in ("lora_A", "lora_B", "scaling", "base_layer")})
    given = (*args, *kwargs.values())
    if not given or not all(isinstance(a, Tensor) for a in given) or (owner.kind == "replayed" and kwargs):
        found = f"a call of {owner.name} with " + ", ".join(type(a).__name__ for a in given)
        raise MeasurementError(describe("trained module", found, "tensors by position", "leave this module frozen."))
    return Inputs(tuple(a.detach() for a in given), {})


def spread_rows(
    owner: TrainedModule, args: tuple[Any, ...], output: Tensor, rows: int
) -> tuple[tuple[Any, ...], Tensor, Tensor | None]:
    """(inputs, output, what the module's caller is given instead or None) of a call: positions that an embedding looks
    up once for all rows would get the sum of their gradients back, so the rows are told apart by a view."""
    if owner.kind != "embedding" or not output.shape[0] == 1 < rows:
        return args, output, None
    spread = output.expand(rows, *output.shape[1:])
    return tuple(a.expand(rows, *a.shape[1:]) for a in args), spread, spread


def no_tensor(owner: TrainedModule, output: object) -> MeasurementError:
    """The error of a module that gives something else than one tensor."""
    found = f"{owner.name} gives {type(output).__name__}"
    return MeasurementError(describe("trained module", found, "one tensor", "leave this module frozen."))


@torch.no_grad()
def module_rows(owner: TrainedModule, inputs: Inputs, gradient: Tensor, rows: int) -> list[tuple[int, RowFactors]]:
    """(number of the trained tensor, its rows) for one call, `gradient` being the one at the call's output.

    Raises `MeasurementError` where the call was not on `rows` rows.
    """
    gradient = gradient.detach()
    if any(t.shape[:1] != (rows,) for t in (*inputs.tensors, gradient)):
        shapes = ", ".join(str(tuple(t.shape)) for t in (*inputs.tensors, gradient))
        found = f"{owner.name} called on tensors of shape {shapes}"
        raise MeasurementError(describe("trained module", found, f"{rows} rows first", "leave this module frozen."))
    module = owner.module
    with torch.autocast(gradient.device.type, enabled=False):
        if owner.kind == "embedding":
            (ids,) = inputs.tensors
            return [(owner.own["weight"], _embedding_rows(module, ids, gradient))]
        if owner.kind == "magnitude":
            V = direction(module, **inputs.named)
            of_magnitude = magnitude_rows(V, _by_token(inputs.tensors[0]), _by_token(gradient))
            return [(owner.own["weight"], DenseRows(of_magnitude))]
        if owner.kind == "svd":
            by_part = svd_rows(module, tuple(owner.own), _by_token(inputs.tensors[0]), _by_token(gradient))
            return [(owner.own[name], found) for name, found in by_part.items()]
        if owner.kind == "replayed":
            by_name = _replayed_rows(module, tuple(owner.own), inputs.tensors, gradient)
            return [(owner.own[name], DenseRows(values.flatten(1))) for name, values in by_name.items()]
        out: list[tuple[int, RowFactors]] = []
        gradient = _by_token(gradient)
        if "weight" in owner.own:
            pair = (_by_token(inputs.tensors[0]), gradient)
            out.append((owner.own["weight"], LinearFactors(*(pair if owner.kind == "linear" else pair[::-1]))))
        if "bias" in owner.own:
            out.append((owner.own["bias"], DenseRows(gradient.float().sum(1))))
        return out


def _by_token(tensor: Tensor) -> Tensor:
    """(b, t, d) of (b, …, d)."""
    return tensor.reshape(tensor.shape[0], -1, tensor.shape[-1])


def _embedding_rows(module: Any, ids: Tensor, gradient: Tensor) -> EmbeddingFactors:
    ids = ids.reshape(ids.shape[0], -1).long()
    if module.padding_idx is not None:
        ids = ids.masked_fill(ids == module.padding_idx, -1)  # torch gives the padding's line no gradient
    scale = getattr(module, "embed_scale", None)
    gradient = _by_token(gradient)
    return EmbeddingFactors(ids, gradient if scale is None else gradient * scale)


def norm_contributions(
    owner: TrainedModule, inputs: Inputs, of_magnitude: RowFactors, numbers: Mapping[int, int]
) -> list[tuple[int, RowFactors]]:
    """What DoRA's backward leaves out of the matrices beside the magnitude of one call (`dora_rows`).

    `of_magnitude` is what `module_rows` gave for that call, `numbers` a trained parameter's number by its id.
    """
    named = inputs.named
    V = direction(owner.module, **named)
    found = norm_rows(owner.module, V, of_magnitude.dense(0, V.shape[0]), named)
    places = (numbers.get(id(named[matrix].weight)) for matrix in ("lora_A", "lora_B"))
    return [(place, rows) for place, rows in zip(places, found, strict=True) if place is not None]


class _Unhooked(nn.Module):
    """A module's forward without its hooks."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.inner = module

    def forward(self, *args: Tensor) -> Any:
        return self.inner.forward(*args)


def _replayed_rows(
    module: nn.Module, names: tuple[str, ...], inputs: tuple[Tensor, ...], gradient: Tensor
) -> dict[str, Tensor]:
    bare = _Unhooked(module)
    bare.training = module.training
    trained = {f"inner.{name}": whole(module.get_parameter(name).detach()) for name in names}
    dtype = next(iter(trained.values())).dtype
    inputs = tuple(t.to(dtype) if t.is_floating_point() else t for t in inputs)

    def of_row(row_gradient: Tensor, *row: Tensor) -> dict[str, Tensor]:
        def forward(parameters: dict[str, Tensor]) -> Tensor:
            output = torch.func.functional_call(bare, parameters, tuple(t[None] for t in row))
            assert isinstance(output, Tensor)
            return output

        output, pull = torch.func.vjp(forward, trained)  # type: ignore[misc]
        (found,) = pull(row_gradient[None].to(output.dtype))
        assert isinstance(found, dict)
        return found

    by_row = torch.func.vmap(of_row)(gradient, *inputs)
    return {name: by_row[f"inner.{name}"] for name in names}
