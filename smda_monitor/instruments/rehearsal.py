"""The coming optimizer step, taken on the real optimizer and model, looked at, and put back bit for bit.

For an optimizer of any class: its step is run, not imitated. It works on a deep copy of everything that it holds, so
what it held is never touched; parameters are copied back. Step hooks are set aside: what they write may lie anywhere.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import MeasurementError, describe
from .optimizer_step import HOOKS, bare_optimizer
from .parameters import TrainedParameters
from .quiet import quiet
from .sharded import placed


@contextmanager
def rehearsal(optimizer: Any, model: nn.Module, parameters: TrainedParameters) -> Iterator[Callable[[Tensor], None]]:
    """Gives a function that takes the optimizer's step, to be called once, for a gradient (p,) of `parameters`, clipped
    as the optimizer should see it.

    Inside, `model` is in eval mode and has the parameters after that step: measure it. On exit, also after an
    exception, parameters, ``.grad``, modes, the random state and all that the optimizer holds (state, groups, any other
    attribute) are the same objects with the same bits as before. A parameter without ``.grad`` has none in the
    rehearsal either. What an optimizer keeps outside itself (in its class, in a file) is not put back, nor what cannot
    be deep-copied (a lock, a handle).

    Raises `MeasurementError` where its state cannot be deep-copied.
    """
    bare = bare_optimizer(optimizer)
    attributes = dict(vars(bare))
    held = _parameters(bare, parameters)
    data = [p.data for p in held]
    values = [d.clone() for d in data]
    gradients = [p.grad for p in held]
    copies = _copies(bare, model, held)

    def take(gradient: Tensor) -> None:
        for p in held:
            p.grad = None
        for weight, part in zip(parameters.weights, parameters.split(gradient), strict=True):
            if (real := gradients[places[id(weight)]]) is not None:
                weight.grad = placed(part, real)
        bare.step()

    places = {id(p): i for i, p in enumerate(held)}
    with quiet(model):
        try:
            vars(bare).update(copies)
            yield take
        finally:
            vars(bare).clear()
            vars(bare).update(attributes)
            with torch.no_grad():
                for p, place, value, real in zip(held, data, values, gradients, strict=True):
                    place.copy_(value)
                    p.data = place
                    p.grad = real


def _parameters(bare: Any, parameters: TrainedParameters) -> list[nn.Parameter]:
    """Every parameter that a step may move, each once."""
    grouped = [p for group in bare.param_groups for p in group["params"]]
    return list({id(p): p for p in [*grouped, *parameters.weights]}.values())


def _copies(bare: Any, model: nn.Module, held: list[nn.Parameter]) -> dict[str, Any]:
    """Every attribute of the optimizer, deep-copied under one memo, so that what is shared among them stays shared."""
    memo: dict[int, Any] = {id(kept): kept for kept in (bare, *model.modules(), *held)}
    copies: dict[str, Any] = {}
    attributes = vars(bare)
    for name in sorted(attributes.keys() - set(HOOKS), key=lambda name: (name not in ("state", "param_groups"), name)):
        known = dict(memo)
        try:
            copies[name] = copy.deepcopy(attributes[name], memo)
        except Exception as error:
            if name in ("state", "param_groups"):
                remedy = "train with an optimizer whose state is plain tensors and numbers."
                found = f"{type(bare).__name__}.{name} that cannot be copied ({error})"
                raise MeasurementError(describe("optimizer", found, "one that can", remedy)) from error
            memo = known
            copies[name] = attributes[name]
    for name in HOOKS:
        if name in attributes:
            copies[name] = type(attributes[name])()
    return copies
