"""The step of Adam and AdamW, with and without amsgrad, as torch takes it.

With bias corrections bc1 = 1 − β1ᵗ, bc2 = 1 − β2ᵗ, s = −1 where the optimizer maximises, and ĝ = s·g, plus λθ for
Adam's coupled weight decay:

    v_t = β2 v_{t−1} + (1−β2) ĝ²,    D = 1/(√(max(v_t, v_max)/bc2) + ε)      (v_max with amsgrad alone)
    u(g) = −lr·λ·θ_t [AdamW]  − (lr/bc1)·D∘(β1 m_{t−1} + (1−β1) ĝ)

    share of c·g_i = −lr·(1−β1)/bc1 · s·D∘(c·g_i)     history = −lr·β1/bc1 · D∘m_{t−1}
    decay = −lr·λ·θ_t [AdamW],  −lr·(1−β1)/bc1 · D∘λθ_t [Adam]

Sources: Kingma & Ba (1412.6980), Loshchilov & Hutter (1711.05101), Reddi et al. (1904.09237).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Float64
from torch import Tensor


@dataclass(frozen=True, slots=True)
class AdamStep:
    """What the optimizer held just before its step. A `StepMap`."""

    theta: Float[Tensor, " p"]
    """Parameters θ_t."""
    m: Float[Tensor, " p"]
    """First moment m_{t−1}."""
    v: Float[Tensor, " p"]
    """Second moment v_{t−1}."""
    v_max: Float[Tensor, " p"] | None
    """Largest second moment so far, before this step; None without amsgrad."""
    lr: float
    """Learning rate of this step."""
    beta1: float
    """Decay of the first moment."""
    beta2: float
    """Decay of the second moment."""
    eps: float
    """Added to the root of the second moment."""
    weight_decay: float
    """Weight decay λ."""
    decoupled: bool
    """True for AdamW: λ acts on the parameters directly; False: it is part of the gradient."""
    maximize: bool
    """Whether the step climbs."""
    t: int
    """The optimizer's step count for these parameters, this step included; ≥ 1."""

    @property
    def kept(self) -> float:
        """1 − β1, negative where the step climbs."""
        return (self.beta1 - 1) if self.maximize else (1 - self.beta1)

    @property
    def retained(self) -> float:
        """β1."""
        return self.beta1

    def cut(self, start: int, stop: int) -> AdamStep:
        """As `StepMap.cut`."""
        v_max = None if self.v_max is None else self.v_max[start:stop]
        return replace(self, theta=self.theta[start:stop], m=self.m[start:stop], v=self.v[start:stop], v_max=v_max)

    def update(self, gradient: Float64[Tensor, "*n p"]) -> Float64[Tensor, "*n p"]:
        """u(g)."""
        effective = self._effective(gradient)
        moved = effective.mul(1 - self.beta1).add_(self.beta1 * self.m.double())
        moved.mul_(self._preconditioner(effective)).mul_(-self._rate)
        return moved.add_(self._decoupled_decay()) if self.decoupled else moved

    def share_scale(self, gradient: Float64[Tensor, " p"]) -> Float64[Tensor, " p"]:
        """−lr·(1−β1)/bc1 · s·D."""
        sign = -1.0 if self.maximize else 1.0
        return -self._rate * (1 - self.beta1) * sign * self._preconditioner(self._effective(gradient))

    def momentum_scale(self, gradient: Float64[Tensor, " p"]) -> Float64[Tensor, " p"]:
        """−lr·β1/bc1 · D."""
        return -self._rate * self.beta1 * self._preconditioner(self._effective(gradient))

    def history(self, gradient: Float64[Tensor, " p"]) -> Float64[Tensor, " p"]:
        """−lr·β1/bc1 · D∘m_{t−1}."""
        return self.momentum_scale(gradient) * self.m.double()

    def decay(self, gradient: Float64[Tensor, " p"]) -> Float64[Tensor, " p"]:
        """−lr·λ·θ_t, for Adam through D and the bias correction."""
        if self.decoupled:
            return self._decoupled_decay()
        coupled = self.weight_decay * self.theta.double()
        return -self._rate * (1 - self.beta1) * self._preconditioner(self._effective(gradient)) * coupled

    @property
    def _rate(self) -> float:
        return float(self.lr / (1 - self.beta1**self.t))

    def _decoupled_decay(self) -> Tensor:
        return -self.lr * self.weight_decay * self.theta.double()

    def _effective(self, gradient: Tensor) -> Tensor:
        signed = -gradient if self.maximize else gradient
        return signed if self.decoupled else signed + self.weight_decay * self.theta.double()

    def _preconditioner(self, effective: Tensor) -> Tensor:
        """D with v_t after `effective`, the step's whole gradient."""
        v = effective.square().mul_(1 - self.beta2).add_(self.beta2 * self.v.double())
        if self.v_max is not None:
            v = torch.maximum(v, self.v_max.double())
        return v.div_(1 - self.beta2**self.t).sqrt_().add_(self.eps).reciprocal_()
