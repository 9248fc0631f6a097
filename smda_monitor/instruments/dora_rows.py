"""DoRA's layers by row: the magnitude m, and what the norm does that DoRA's own backward holds constant.

With V = W + s·BA, n_o = ‖V_o‖ by output, and δ the gradient at the layer's output y = (m/n)∘(V x):

    ∂f/∂m = Σ_t δ_t ∘ (V x_t)/n                     what torch gives too
    ∂f/∂n = −(m/n) ∘ ∂f/∂m                          what it leaves out:
    ∂f/∂B += s·diag(∂f/∂n / n) V Aᵀ,    ∂f/∂A += s·Bᵀ diag(∂f/∂n / n) V

The optimizer's gradient is without the second part, so a training row's is too. What a step does to a probe is not: the
norm moves with A and B.

Source: Liu et al. (2402.09353), section 4.3, for the norm held constant.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..maths.row_gradients import DenseRows, RowFactors


def direction(module: Any, base_layer: Any, lora_A: Any, lora_B: Any, scaling: float) -> Tensor:
    """V (out, in), float32, of one of peft's DoraLinearLayer."""
    from peft.utils.integrations import dequantize_module_weight

    stored: Tensor = dequantize_module_weight(base_layer)
    weight = (stored.T if module.fan_in_fan_out else stored).float()
    found: Tensor = weight + scaling * lora_B.weight.float() @ lora_A.weight.float()
    return found


def magnitude_rows(V: Tensor, inputs: Tensor, gradient: Tensor) -> Tensor:
    """(b, out) ∂f/∂m of every row, for `inputs` (b, t, in) and the `gradient` (b, t, out) at the layer's output."""
    found: Tensor = (gradient.float() * (inputs.float() @ V.T)).sum(1) / V.norm(dim=1)
    return found


@torch.no_grad()
def norm_rows(module: Any, V: Tensor, of_magnitude: Tensor, named: Any) -> tuple[RowFactors, RowFactors]:
    """What ∂f/∂A (r, in) and ∂f/∂B (out, r) of every row lack where the norm is held constant, from ∂f/∂m (b, out)."""
    n = V.norm(dim=1)
    A, B, scaling = named["lora_A"].weight.float(), named["lora_B"].weight.float(), named["scaling"]
    pull = -scaling * module.weight.float() / n.square() * of_magnitude.float()
    of_A = (pull[:, None, :] * B.T) @ V
    of_B = pull[:, :, None] * (V @ A.T)
    return DenseRows(of_A.flatten(1)), DenseRows(of_B.flatten(1))
