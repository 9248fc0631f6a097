"""AdaLoRA's layers by row: A (r, in), E (r, 1) and B (out, r), which the layer uses without a module for each.

With s = scaling/(rank + 1e-5), δ the gradient at the layer's output and γ_t = s Bᵀδ_t:

    y_t = W x_t + s B (E∘A) x_t
    ∂f/∂B = s Σ_t δ_t ((E∘A) x_t)ᵀ,    ∂f/∂A = Σ_t (E∘γ_t) x_tᵀ,    ∂f/∂E = Σ_t γ_t ∘ (A x_t)

Its orthogonal term is no part of the loss here: TRL computes its own from the log-probabilities. Ranks that are taken
away are zeros of E: shapes stay, and what zeroes them is seen as no step of the optimizer's.

Source: Zhang et al. (2303.10512), equations 3 and 8.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ..maths.row_gradients import DenseRows, LinearFactors, RowFactors


def is_svd(module: nn.Module) -> bool:
    """Whether it is PEFT's linear layer of AdaLoRA."""
    return type(module).__name__ == "SVDLinear"


MATRICES = ("lora_A", "lora_B", "lora_E")
"""Its parts, by adapter."""


def used_by(modules: Mapping[str, nn.Module], owner: str, own: str) -> tuple[str, str]:
    """The module that is called with the parameter `own` of `owner`, and the parameter's dotted name in it."""
    above, _, last = owner.rpartition(".")
    return (above, f"{last}.{own}") if last in MATRICES and is_svd(modules[above]) else (owner, own)


def svd_refusal(module: Any) -> str | None:
    """Why the parameters of such a layer cannot be captured; None where they can."""
    dropped = max((getattr(dropout, "p", 0.0) for dropout in module.lora_dropout.values()), default=0.0)
    return f"AdaLoRA with lora_dropout={dropped}: set lora_dropout=0.0" if dropped else None


def svd_rows(module: Any, names: tuple[str, ...], inputs: Tensor, gradient: Tensor) -> dict[str, RowFactors]:
    """The rows of its parameters `names` (such as ``lora_A.default``), for `inputs` (b, t, in) and the `gradient`
    (b, t, out) at its output."""
    found: dict[str, RowFactors] = {}
    x, delta = inputs.float(), gradient.float()
    for name in names:
        matrix, adapter = name.split(".", 1)
        A, B, E = (getattr(module, of)[adapter].detach().float() for of in MATRICES)
        scale = module.scaling[adapter] / (module.ranknum[adapter].detach().float() + 1e-5)
        if matrix == "lora_B":
            found[name] = LinearFactors(scale * (x @ (E * A).T), delta)
            continue
        back = scale * (delta @ B)
        found[name] = LinearFactors(x, back * E.T[0]) if matrix == "lora_A" else DenseRows((back * (x @ A.T)).sum(1))
    return found
