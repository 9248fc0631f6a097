"""Optimizers that the package has never seen: a sign step, and one with quantised state and attributes of its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


class Lion(torch.optim.Optimizer):
    """The sign of a mixture of momentum and gradient; decay is decoupled. One state tensor per parameter."""

    def __init__(self, params: Any, lr: float = 1e-3, beta: float = 0.9, weight_decay: float = 0.1) -> None:
        super().__init__(params, {"lr": lr, "beta": beta, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                momentum = self.state[p].setdefault("momentum", torch.zeros_like(p))
                mixed = group["beta"] * momentum + (1 - group["beta"]) * p.grad
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(mixed.sign(), alpha=-group["lr"])
                momentum.mul_(0.99).add_(p.grad, alpha=0.01)


class Homemade(torch.optim.Optimizer):
    """Momentum kept in eight bits, stochastic rounding, and attributes of its own that every step changes."""

    def __init__(self, params: Any, lr: float = 1e-2, noise: float = 0.05) -> None:
        super().__init__(params, {"lr": lr})
        self.noise = noise
        self.taken = 0
        self.norms: list[float] = []
        self.largest = {"gradient": torch.zeros(())}
        self.own = torch.Generator().manual_seed(5)
        self.codes: dict[int, Tensor] = {}
        self.alias = self.state  # the same dictionary under two names
        self.bound = self.scale  # a method of its own

    def scale(self) -> float:
        return 1.0 / (1 + self.taken)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        self.taken += 1
        for group in self.param_groups:
            group["seen"] = group.get("seen", 0) + 1
            for place, p in enumerate(group["params"]):
                if p.grad is None:
                    continue
                state = self.alias[p]
                if "code" not in state:
                    state["code"] = torch.full(p.shape, 128, dtype=torch.uint8)
                    state["width"] = torch.ones(())
                self.codes[place] = state["code"]
                momentum = (state["code"].float() - 128) / 127 * state["width"]
                momentum = 0.9 * momentum + p.grad.float()
                state["width"] = momentum.abs().max() + 1e-12
                wanted = momentum / state["width"] * 127 + 128
                # Rounded up with the probability of the remainder, by torch's own random numbers.
                state["code"].copy_((wanted + torch.rand_like(wanted)).floor().clamp(0, 255).to(torch.uint8))
                self.norms.append(float(p.grad.norm()))
                self.largest["gradient"] = torch.maximum(self.largest["gradient"], p.grad.abs().max())
                # Not Python's own generator: the tests' type checker draws from it to look into lists.
                jitter = 1 + self.noise * (torch.rand((), generator=self.own) + float(np.random.rand()))
                p.grad.zero_()  # it is free to use the gradient up
                p.data = p.data - group["lr"] * self.bound() * (jitter * momentum).to(p.dtype)
