"""One AdamW step as a map from gradient to update, and its exact additive split.

With bias corrections bc1 = 1 − β1ᵗ, bc2 = 1 − β2ᵗ, the clipped gradient g = c·Σ_i g_i, v_t = β2 v_{t−1} + (1−β2) g² and
D = 1/(√(v_t/bc2) + ε):

    u(g) = −lr·λ·θ_t − (lr/bc1)·D∘(β1 m_{t−1} + (1−β1) g)
    share of row i = −lr·(1−β1)/bc1 · c · D∘g_i      history = −lr·β1/bc1 · D∘m_{t−1}      decay = −lr·λ·θ_t
    push of row i  = u(c·G) − u(c_i'·(G − g_i)),  c_i' = min(1, max_norm/(‖G − g_i‖ + 1e-6))

Shares, history and decay add up to the update; the push is what the step would have lacked without the row, exact
because the map is known element by element. All vectors are flat over the trained parameters, float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

CLIP_EPSILON = 1e-6
"""What torch's `clip_grad_norm_` adds to the norm."""


@dataclass(frozen=True, slots=True)
class AdamWSegment:
    """A run of the flat parameter vector with one set of hyper-parameters."""

    start: int
    """First element."""
    stop: int
    """One past the last element."""
    lr: float
    """Learning rate of this step."""
    beta1: float
    """Decay of the first moment."""
    beta2: float
    """Decay of the second moment."""
    eps: float
    """Added to the root of the second moment."""
    weight_decay: float
    """Decoupled weight decay λ."""
    t: int
    """The optimizer's step count for these parameters, this step included; ≥ 1."""


@dataclass(frozen=True, slots=True)
class AdamWState:
    """What the optimizer held just before its step."""

    theta: Float64[Tensor, " p"]
    """Parameters θ_t."""
    m: Float64[Tensor, " p"]
    """First moment m_{t−1}."""
    v: Float64[Tensor, " p"]
    """Second moment v_{t−1}."""
    segments: tuple[AdamWSegment, ...]
    """Cover 0 … p without gap."""

    def spread(self, name: str) -> Float64[Tensor, " p"]:
        """The hyper-parameter `name` of every element."""
        values = torch.empty_like(self.theta)
        for s in self.segments:
            values[s.start : s.stop] = getattr(s, name)
        return values


@dataclass(frozen=True, slots=True)
class StepMap:
    """The step at one state, with the per-element constants worked out once."""

    lr: Float64[Tensor, " p"]
    """Learning rate."""
    beta1: Float64[Tensor, " p"]
    """β1."""
    beta2: Float64[Tensor, " p"]
    """β2."""
    eps: Float64[Tensor, " p"]
    """ε."""
    bc1: Float64[Tensor, " p"]
    """1 − β1ᵗ."""
    bc2: Float64[Tensor, " p"]
    """1 − β2ᵗ."""
    m: Float64[Tensor, " p"]
    """m_{t−1}."""
    v: Float64[Tensor, " p"]
    """v_{t−1}."""
    decay: Float64[Tensor, " p"]
    """−lr·λ·θ_t."""

    @classmethod
    def of(cls, state: AdamWState) -> StepMap:
        """The map at `state`."""
        lr, beta1, beta2, t = (state.spread(name) for name in ("lr", "beta1", "beta2", "t"))
        decay = -lr * state.spread("weight_decay") * state.theta
        return cls(lr, beta1, beta2, state.spread("eps"), 1 - beta1**t, 1 - beta2**t, state.m, state.v, decay)

    def preconditioner(self, gradient: Float64[Tensor, " p"]) -> Float64[Tensor, " p"]:
        """D = 1/(√(v_t/bc2) + ε) with v_t after `gradient`, the clipped gradient of the whole step."""
        v = self.beta2 * self.v + (1 - self.beta2) * gradient.square()
        return 1 / ((v / self.bc2).sqrt() + self.eps)

    def update(self, gradient: Float64[Tensor, " p"]) -> Float64[Tensor, " p"]:
        """u(g): the whole change of the parameters for a clipped gradient g."""
        moment = self.beta1 * self.m + (1 - self.beta1) * gradient
        return self.decay - self.lr / self.bc1 * self.preconditioner(gradient) * moment

    def share_scale(self, clipped: Float64[Tensor, " p"], clip_factor: float) -> Float64[Tensor, " p"]:
        """What a row's unclipped gradient is multiplied by, element by element, to give its share of the update."""
        return -self.lr * (1 - self.beta1) / self.bc1 * clip_factor * self.preconditioner(clipped)

    def history(self, clipped: Float64[Tensor, " p"]) -> Float64[Tensor, " p"]:
        """Momentum's part of the update: earlier steps' gradients acting now."""
        return -self.lr * self.beta1 / self.bc1 * self.preconditioner(clipped) * self.m


def clip_factor(norm: float, max_norm: float) -> float:
    """min(1, max_norm/(norm + 1e-6)) as torch clips; 1 where `max_norm` is 0 (no clipping)."""
    return min(1.0, max_norm / (norm + CLIP_EPSILON)) if max_norm > 0 else 1.0


def push_direction(
    step: StepMap,
    update: Float64[Tensor, " p"],
    total: Float64[Tensor, " p"],
    row: Float64[Tensor, " p"],
    max_norm: float,
) -> Float64[Tensor, " p"]:
    """δ_i = u(c·G) − u(c_i'·(G − g_i)): `update` is u(c·G), `total` the unclipped G, `row` the row's unclipped g_i."""
    rest = total - row
    return update - step.update(clip_factor(float(rest.norm()), max_norm) * rest)
