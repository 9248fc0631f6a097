"""Interference: how much of a row's policy shift falls on features that its own prompt did not call for.

    I = the smallest set of features that carries 90 % of Σ_k |x_k w_k|       x: the row's own prompt, w: the policy
    interference = Σ_{k∉I} |ΔW_k w_k| / Σ_k |ΔW_k w_k|                        in [0, 1]

The paper (arXiv 2606.29171) describes interference in words; the formula is our own. Columns are those of the policy,
whose ids into the dictionary are ``policy.feature_ids``. Where ΔW is known of some columns alone, both sums run over
these: then it says how the row's effect is shared among them, and nothing of the rest.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..errors import ConfigError, MeasurementError, describe


def intended_features(x: Float[Tensor, " d"], w: Float[Tensor, " d"], mass: float = 0.9) -> Bool[Tensor, " d"]:
    """The smallest set of features that carries at least `mass` of Σ_k |x_k w_k|; among equals the lower column.

    A feature that adds nothing is never in it; the set is empty where the whole sum is 0. Raises `ConfigError` for a
    `mass` outside (0, 1], `MeasurementError` for NaN or Inf.
    """
    if not 0 < mass <= 1:
        raise ConfigError(describe("mass of the intended features", mass, "a fraction in (0, 1]", "use 0.9"))
    parts = _magnitudes(x, w, "prediction for the row's own prompt")
    intended = torch.zeros(parts.shape, dtype=torch.bool)
    order = torch.argsort(parts, descending=True, stable=True)
    carried = parts[order].cumsum(0)
    if carried.numel() and carried[-1] > 0:
        # carried[-1] is the total as summed here, so that mass = 1 is reached in spite of rounding.
        intended[order[: int((carried < mass * carried[-1]).sum()) + 1]] = True
    return intended


def interference(delta_W: Float[Tensor, " d"], w: Float[Tensor, " d"], intended: Bool[Tensor, " d"]) -> float:
    """Σ_{k∉I} |ΔW_k w_k| / Σ_k |ΔW_k w_k| in [0, 1]; 0 where nothing moved.

    Raises `MeasurementError` for NaN or Inf.
    """
    parts = _magnitudes(delta_W, w, "policy shift")
    inside, outside = float(parts[intended].sum()), float(parts[~intended].sum())
    return outside / (inside + outside) if outside > 0 else 0.0


def dominant_feature(delta_W: Float[Tensor, " d"], w: Float[Tensor, " d"]) -> int:
    """The column with the largest |ΔW_k w_k|, the lower one among equals; −1 where nothing moved.

    Raises `MeasurementError` for NaN or Inf.
    """
    parts = _magnitudes(delta_W, w, "policy shift")
    if parts.numel() == 0 or parts.max() == 0:
        return -1
    return int(torch.nonzero(parts == parts.max())[0])


def _magnitudes(left: Tensor, right: Tensor, what: str) -> Tensor:
    """|left_k right_k|, each factor scaled to at most 1 first: ratios stay, in any units, and nothing overflows."""
    factors = []
    for factor in (left.double().abs(), right.double().abs()):
        if not bool(torch.isfinite(factor).all()):
            raise MeasurementError(describe(what, "NaN or Inf", "finite values", "measure the probes again"))
        peak = float(factor.max()) if factor.numel() else 0.0
        factors.append(factor / peak if peak > 0 else factor)
    return factors[0] * factors[1]
