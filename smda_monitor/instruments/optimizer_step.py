"""The step map of the trainer's optimizer over the flat parameter vector, read just before its step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import PrerequisiteError, describe
from ..maths.adam import AdamStep
from ..maths.sgd import SgdStep
from ..maths.step_map import NoStep, StepMap, WholeStep
from .parameters import TrainedParameters, flattened

KNOWN = (torch.optim.AdamW, torch.optim.Adam, torch.optim.SGD)
"""Optimizers whose step is known exactly. A subclass may do anything in its step and is none of them."""
HOOKS = ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")
"""Where a torch optimizer keeps the hooks of its step."""


def bare_optimizer(optimizer: Any) -> Any:
    """The torch optimizer inside Accelerate's wrapper."""
    return getattr(optimizer, "optimizer", optimizer)


def step_was_skipped(optimizer: Any) -> bool:
    """Whether Accelerate's wrapper says that a gradient scaler let the last step go by: nothing has moved then."""
    return bool(getattr(optimizer, "step_was_skipped", False))


def unknown_step(optimizer: Any) -> str | None:
    """Why the step of `optimizer` is not known exactly, in words; None for one of `KNOWN`.

    Raises `PrerequisiteError` where it is no torch optimizer, so that its step cannot be replayed either.
    """
    bare = bare_optimizer(optimizer)
    name = f"{type(bare).__module__}.{type(bare).__name__}"
    known = ", ".join(f"torch.optim.{kind.__name__}" for kind in KNOWN)
    if not isinstance(bare, torch.optim.Optimizer):
        remedy = "set SFTConfig(optim='adamw_torch_fused'), or pass a torch optimizer."
        raise PrerequisiteError(describe("optimizer", name, f"a torch.optim.Optimizer, best one of {known}", remedy))
    return None if type(bare) in KNOWN else f"the step of {name} is not known exactly; that of {known} is"


def step_hooks(optimizer: Any) -> list[str]:
    """Names of the functions that run before or after the step of `optimizer`."""
    found = [hook for name in HOOKS for hook in getattr(bare_optimizer(optimizer), name, {}).values()]
    return [getattr(hook, "__qualname__", type(hook).__name__) for hook in found]


def read_step(optimizer: Any, parameters: TrainedParameters) -> WholeStep:
    """The map of the coming step, from copies of what the optimizer holds.

    Neighbouring parameters with the same hyper-parameters share a part; one without ``.grad``, which no optimizer of
    `KNOWN` steps, has a `NoStep`. Raises `PrerequisiteError` where a trained parameter is in no group of the optimizer.
    """
    bare = bare_optimizer(optimizer)
    groups = {id(p): i for i, group in enumerate(bare.param_groups) for p in group["params"]}
    parts: list[tuple[int, StepMap]] = []
    run: list[Tensor] = []
    key: tuple[object, ...] = ()
    stop = 0
    for tensor in parameters.tensors:
        weight = tensor.parameter
        if id(weight) not in groups:
            remedy = "let the Trainer build the optimizer, or pass it all trained parameters."
            raise PrerequisiteError(describe("optimizer", f"no group with {tensor.name}", "one", remedy))
        state = bare.state.get(weight, {})
        held = sorted(k for k, v in state.items() if v is not None)
        here = (groups[id(weight)], weight.grad is None, int(state.get("step", 0)), *held)
        if run and here != key:
            parts.append((tensor.start, _part(bare, run)))
            run = []
        run, key, stop = [*run, weight], here, tensor.stop
    return WholeStep((*parts, (stop, _part(bare, run))))


def _part(optimizer: Any, weights: Sequence[Tensor]) -> StepMap:
    """The map of `weights`, which share a group and a count of steps, and all have a gradient or all have none."""
    if weights[0].grad is None:
        return NoStep()
    group: Mapping[str, Any] = next(g for g in optimizer.param_groups if any(p is weights[0] for p in g["params"]))
    states = [optimizer.state.get(w, {}) for w in weights]

    def joined(name: str) -> Tensor:
        pairs = zip(states, weights, strict=True)
        return flattened([s[name] if s.get(name) is not None else torch.zeros_like(w) for s, w in pairs])

    lr, decay, maximize = float(group["lr"]), float(group["weight_decay"]), bool(group["maximize"])
    # Without decay the parameters are in no formula: zeros that take no memory stand for them.
    nothing = torch.zeros(1, dtype=weights[0].dtype, device=weights[0].device)
    theta = flattened(weights) if decay else nothing.expand(sum(w.numel() for w in weights))
    if type(optimizer) is torch.optim.SGD:
        kept = group["momentum"] != 0 and all(s.get("momentum_buffer") is not None for s in states)
        return SgdStep(
            theta,
            joined("momentum_buffer") if kept else None,
            momentum=float(group["momentum"]),
            dampening=float(group["dampening"]),
            weight_decay=decay,
            nesterov=bool(group["nesterov"]),
            maximize=maximize,
            lr=lr,
        )
    beta1, beta2 = group["betas"]
    return AdamStep(
        theta,
        joined("exp_avg"),
        joined("exp_avg_sq"),
        joined("max_exp_avg_sq") if group["amsgrad"] else None,
        beta1=float(beta1),
        beta2=float(beta2),
        eps=float(group["eps"]),
        decoupled=bool(group.get("decoupled_weight_decay", type(optimizer) is torch.optim.AdamW)),
        t=int(states[0].get("step", 0)) + 1,
        weight_decay=decay,
        maximize=maximize,
        lr=lr,
    )
