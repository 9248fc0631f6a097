"""The step of stochastic gradient descent, with momentum and Nesterov's, as torch takes it.

With s = −1 where the optimizer maximises, d = s·g + λθ, momentum μ, dampening τ and buffer b (none at the first step):

    b_t = μ b_{t−1} + (1−τ) d,  at the first step d
    u(g) = −lr·d [μ = 0],   −lr·b_t,   −lr·(d + μ b_t) [Nesterov]

All of it is linear. With κ what d counts in u/(−lr): share of c·g_i = −lr·κ·s·c·g_i, decay = −lr·κ·λθ, history
the rest.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor


@dataclass(frozen=True, slots=True)
class SgdStep:
    """What the optimizer held just before its step. A `StepMap`."""

    theta: Float[Tensor, " p"]
    """Parameters θ_t."""
    buffer: Float[Tensor, " p"] | None
    """Momentum buffer b_{t−1}; None at the first step, and without momentum."""
    lr: float
    """Learning rate of this step."""
    momentum: float
    """μ."""
    dampening: float
    """τ."""
    weight_decay: float
    """Weight decay λ, part of the gradient."""
    nesterov: bool
    """Whether Nesterov's form is used."""
    maximize: bool
    """Whether the step climbs."""

    def update(self, gradient: Float64[Tensor, " p"]) -> Float64[Tensor, " p"]:
        """u(g)."""
        return self.share_scale(gradient) * gradient + self.history(gradient) + self.decay(gradient)

    def share_scale(self, gradient: Float64[Tensor, " p"]) -> Float64[Tensor, " p"]:
        """−lr·κ·s."""
        return torch.full_like(gradient, -self.lr * self._gain * (-1.0 if self.maximize else 1.0))

    def history(self, gradient: Float64[Tensor, " p"]) -> Float64[Tensor, " p"]:
        """−lr·μ·b_{t−1}, times μ again for Nesterov."""
        if self.buffer is None:
            return torch.zeros_like(gradient)
        return -self.lr * self.momentum * (self.momentum if self.nesterov else 1.0) * self.buffer.double()

    def decay(self, gradient: Float64[Tensor, " p"]) -> Float64[Tensor, " p"]:
        """−lr·κ·λθ."""
        return -self.lr * self._gain * self.weight_decay * self.theta.double()

    @property
    def _gain(self) -> float:
        """κ: what this step's gradient counts in u/(−lr)."""
        if self.momentum == 0:
            return 1.0
        into_buffer = 1.0 if self.buffer is None else 1.0 - self.dampening
        return 1.0 + self.momentum * into_buffer if self.nesterov else into_buffer
