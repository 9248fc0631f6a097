"""The step of stochastic gradient descent, with momentum and Nesterov's, as torch takes it.

With s = −1 where the optimizer maximises, d = s·g + λθ, momentum μ, dampening τ and buffer b (none at the first step):

    b_t = μ b_{t−1} + (1−τ) d,  at the first step d
    u(g) = −lr·d [μ = 0],   −lr·b_t,   −lr·(d + μ b_t) [Nesterov]

All of it is linear. With κ what d counts in u/(−lr): share of c·g_i = −lr·κ·s·c·g_i, decay = −lr·κ·λθ, history
the rest.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

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

    @property
    def kept(self) -> float:
        """1 − τ, 1 at the first step; negative where the step climbs, 0 without momentum."""
        if self.momentum == 0:
            return 0.0
        return self._into_buffer * self._sign

    @property
    def retained(self) -> float:
        """μ."""
        return self.momentum

    def cut(self, start: int, stop: int) -> SgdStep:
        """As `StepMap.cut`."""
        buffer = None if self.buffer is None else self.buffer[start:stop]
        return replace(self, theta=self.theta[start:stop], buffer=buffer)

    def update(self, gradient: Float64[Tensor, "*n p"]) -> Float64[Tensor, "*n p"]:
        """u(g)."""
        moved = gradient * self._scale
        if self.buffer is not None:
            moved.add_(self.buffer.double(), alpha=self._momentum_scale)
        return moved.add_(self.theta.double(), alpha=self._decay_scale)

    def share_scale(self, gradient: Float64[Tensor, " p"]) -> Float64[Tensor, " p"]:
        """−lr·κ·s."""
        return torch.full_like(gradient, self._scale)

    def momentum_scale(self, gradient: Float64[Tensor, " p"]) -> Float64[Tensor, " p"]:
        """−lr·μ, times μ again for Nesterov."""
        return torch.full_like(gradient, self._momentum_scale)

    def history(self, gradient: Float64[Tensor, " p"]) -> Float64[Tensor, " p"]:
        """`momentum_scale` ∘ b_{t−1}; 0 at the first step."""
        if self.buffer is None:
            return torch.zeros_like(gradient)
        return self.momentum_scale(gradient) * self.buffer.double()

    def decay(self, gradient: Float64[Tensor, " p"]) -> Float64[Tensor, " p"]:
        """−lr·κ·λθ."""
        return self._decay_scale * self.theta.double()

    @property
    def _scale(self) -> float:
        return -self.lr * self._gain * self._sign

    @property
    def _momentum_scale(self) -> float:
        return -self.lr * self.momentum * (self.momentum if self.nesterov else 1.0)

    @property
    def _decay_scale(self) -> float:
        return -self.lr * self._gain * self.weight_decay

    @property
    def _sign(self) -> float:
        return -1.0 if self.maximize else 1.0

    @property
    def _into_buffer(self) -> float:
        return 1.0 if self.buffer is None else 1.0 - self.dampening

    @property
    def _gain(self) -> float:
        """κ: what this step's gradient counts in u/(−lr)."""
        if self.momentum == 0:
            return 1.0
        return 1.0 + self.momentum * self._into_buffer if self.nesterov else self._into_buffer
