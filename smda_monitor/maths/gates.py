"""Gates: from a feature's pre-activation z to its activation.

    continuous   relu(z - θ)         robust preset: the features of the dictionary's own gate, without its jumps
    relu_proxy   relu(z)             paper preset (arXiv 2606.29171, "ReLU proxy")
    jump         relu(z)·1[z > θ]    JumpReLU, the native gate of standard (θ = 0), jumprelu and gated dictionaries
    top_k        relu(z) on the k largest z of a row, 0 elsewhere: the native gate of TopK dictionaries

`jump` and `top_k` leap by a feature's whole height where it switches. A derivative cannot see that, so accounts of
the feature pathway do not close through them; `continuous` switches the same features at the same places and does not
leap.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from smda_monitor.errors import MeasurementError, describe


def continuous(z: Float[Tensor, "*rows d"], threshold: Float[Tensor, " d"]) -> Float[Tensor, "*rows d"]:
    """relu(z - θ): (…, d) pre-activations against (d,) thresholds θ ≥ 0. Range [0, ∞), 1-Lipschitz in z.

    Positive exactly where `jump` is, for every θ ≥ 0. Its derivative is 1 where positive, else 0, at z = θ too.
    """
    return torch.relu(z - threshold)


def relu_proxy(z: Float[Tensor, "*rows d"]) -> Float[Tensor, "*rows d"]:
    """relu(z), (…, d), range [0, ∞). Equal to `continuous` with θ = 0."""
    return torch.relu(z)


def jump(z: Float[Tensor, "*rows d"], threshold: Float[Tensor, " d"]) -> Float[Tensor, "*rows d"]:
    """relu(z)·1[z > θ], (…, d), range 0 or (θ, ∞). At z = θ the feature is off."""
    return torch.relu(z) * (z > threshold).to(z.dtype)


def top_k(z: Float[Tensor, "*rows d"], k: int) -> Float[Tensor, "*rows d"]:
    """relu(z) on the k largest entries of each row, 0 elsewhere; (…, d), 1 ≤ k ≤ d. Fewer than k where they are ≤ 0."""
    values, positions = torch.topk(z, k, dim=-1, sorted=False)
    return torch.zeros_like(z).scatter(-1, positions, torch.relu(values))


def average_threshold(z: Float[Tensor, "n d"], k: int) -> float:
    """The one θ ≥ 0 above which k entries per row lie on average: for a TopK dictionary, which has no threshold.

    Half way between the n·k-th and the (n·k+1)-th largest of all n·d entries, so that exactly n·k lie above it where
    there are no ties and the n·k-th is positive; never below 0. Units of z.

    Raises:
        MeasurementError: no rows, or entries that are not finite.
    """
    if z.shape[0] == 0 or not bool(torch.isfinite(z).all()):
        found = "no rows" if z.shape[0] == 0 else "pre-activations that are not finite"
        raise MeasurementError(
            describe(
                "calibrating the threshold of a TopK dictionary",
                found,
                "finite pre-activations of at least one prompt",
                "check that the fit set is not empty and that the model's weights are finite.",
            )
        )
    flat = z.detach().flatten()
    rank = k * z.shape[0]
    if rank >= flat.numel():
        return 0.0
    # kthvalue counts from the smallest: the rank-th largest is the (size - rank + 1)-th smallest.
    upper = float(flat.kthvalue(flat.numel() - rank + 1).values)
    lower = float(flat.kthvalue(flat.numel() - rank).values)
    return max((upper + lower) / 2, 0.0)
