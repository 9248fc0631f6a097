"""The state of torch's AdamW over the flat parameter vector, read just before its step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import PrerequisiteError, describe
from ..maths.adamw import AdamWSegment, AdamWState
from .parameters import TrainedParameters


def bare_optimizer(optimizer: Any) -> Any:
    """The torch optimizer inside Accelerate's wrapper."""
    return getattr(optimizer, "optimizer", optimizer)


def check_optimizer(optimizer: Any) -> None:
    """Raises `PrerequisiteError` unless `optimizer` is torch.optim.AdamW without amsgrad or maximize."""
    bare = bare_optimizer(optimizer)
    expected, remedy = "torch.optim.AdamW", "set SFTConfig(optim='adamw_torch_fused') or 'adamw_torch'."
    if type(bare) is not torch.optim.AdamW:
        found = f"{type(bare).__module__}.{type(bare).__name__}"
        raise PrerequisiteError(describe("optimizer", found, expected, remedy))
    for group in bare.param_groups:
        for option in ("amsgrad", "maximize"):
            if group.get(option):
                raise PrerequisiteError(describe("optimizer", f"AdamW with {option}", expected + " without it", remedy))


def read_adamw(optimizer: Any, parameters: TrainedParameters) -> AdamWState:
    """Parameters, moments and hyper-parameters before the coming step, float64 copies.

    Raises `PrerequisiteError` where a trained parameter is in no group of the optimizer.
    """
    bare = bare_optimizer(optimizer)
    groups = {id(p): group for group in bare.param_groups for p in group["params"]}
    first: list[Tensor] = []
    second: list[Tensor] = []
    segments: list[AdamWSegment] = []
    for layer in parameters.layers:
        weight = layer.module.weight
        group = groups.get(id(weight))
        if group is None:
            remedy = "let the Trainer build the optimizer, or pass it all trained parameters."
            raise PrerequisiteError(describe("optimizer", f"no group with {layer.name}.weight", "one", remedy))
        state = bare.state.get(weight, {})
        first.append(state.get("exp_avg", torch.zeros_like(weight)))
        second.append(state.get("exp_avg_sq", torch.zeros_like(weight)))
        beta1, beta2 = group["betas"]
        taken = int(state["step"]) if "step" in state else 0
        segments.append(
            AdamWSegment(
                layer.start,
                layer.stop,
                float(group["lr"]),
                float(beta1),
                float(beta2),
                float(group["eps"]),
                float(group["weight_decay"]),
                taken + 1,
            )
        )
    flatten = parameters.flatten
    return AdamWState(flatten(parameters.weights), flatten(first), flatten(second), tuple(segments))
