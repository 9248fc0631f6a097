"""Other methods' maps from a row's gradient to its effect on a target, as pure functions.

With the row's clipped gradient g, Adam's moments m, v before the step and its count t with this step:

    raw_dot   −lr·g·∇τ                       TracIn (2002.08484), GhostSuite: gradient descent's step
    less      −lr·Γ(g)·∇τ                    LESS (2402.04333): Adam's step with g in the batch's place,
              Γ(g) = (m̃/bc1)/(√(ṽ/bc2) + ε),  m̃ = β1 m + (1−β1) g,  ṽ = β2 v + (1−β2) g²,  bc = 1 − βᵗ
    bergson   −lr·g/(√v + ε)·∇τ              bergson: by the second moment before the step, as the optimizer holds it

None adds up to the step taken, and each is diagonal, so a score is a sum over slices of the flat vector.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Moments:
    """Adam's state before the step, over s neighbouring elements of one parameter."""

    m: Tensor
    """(s,) first moment."""
    v: Tensor
    """(s,) second moment."""
    t: int
    """Steps, with the coming one; ≥ 1."""
    lr: float
    """Learning rate."""
    beta1: float
    """Decay of the first moment."""
    beta2: float
    """Decay of the second moment."""
    eps: float
    """Added to the root of the second moment."""

    def part(self, inside: slice) -> Moments:
        """Of the elements `inside` alone, in float64."""
        return replace(self, m=self.m[inside].double(), v=self.v[inside].double())


def raw_dot(g: Tensor, at: Moments) -> Tensor:
    """−lr·g, (n, s) as `g`."""
    return -at.lr * g


def less(g: Tensor, at: Moments) -> Tensor:
    """−lr·Γ(g), (n, s) as `g`."""
    first = (at.beta1 * at.m + (1 - at.beta1) * g) / (1 - at.beta1**at.t)
    second = (at.beta2 * at.v + (1 - at.beta2) * g.square()) / (1 - at.beta2**at.t)
    return -at.lr * first / (second.sqrt() + at.eps)


def bergson(g: Tensor, at: Moments) -> Tensor:
    """−lr·g/(√v + ε), (n, s) as `g`."""
    return -at.lr * g / (at.v.sqrt() + at.eps)


RIVALS: dict[str, Callable[[Tensor, Moments], Tensor]] = {"raw_dot": raw_dot, "less": less, "bergson": bergson}
"""By name: the direction in which a method thinks that a row moves the parameters."""


def scores(g: Tensor, targets: Tensor, at: Moments) -> dict[str, Tensor]:
    """By rival: (n, K) what the n rows `g` (n, s) do to the K `targets` (K, s) through these elements; float64."""
    rows, gradients = g.double(), targets.double()
    return {name: direction(rows, at) @ gradients.T for name, direction in RIVALS.items()}


def moments(optimizer: torch.optim.Optimizer, weight: Tensor) -> Moments:
    """A copy of what `optimizer`, an Adam, holds for the flattened `weight`, in its type."""
    group = next(g for g in optimizer.param_groups if any(p is weight for p in g["params"]))
    state = optimizer.state.get(weight, {})
    first, second = (
        state[name].detach().reshape(-1).clone() if name in state else torch.zeros(weight.numel(), device=weight.device)
        for name in ("exp_avg", "exp_avg_sq")
    )
    beta1, beta2 = group["betas"]
    t = int(state.get("step", 0)) + 1
    return Moments(first, second, t, float(group["lr"]), float(beta1), float(beta2), float(group["eps"]))
