"""Interference: how much of a row's policy shift falls on features that its own prompt did not call for.

    I = the smallest set of features that carries 90 % of Σ_k |x_k w_k|       x: the row's own prompt, w: the policy
    interference = Σ_{k∉I} |ΔW_k w_k| / Σ_k |ΔW_k w_k|                        in [0, 1]

Of the rows R of a step, or of a run so far, each by its own I_i (`Pooled`):

    interference(R) = Σ_{i∈R} Σ_{k∉I_i} |ΔW_ik w_k| / Σ_{i∈R} Σ_k |ΔW_ik w_k|           in [0, 1]
    unintended(R)   = Σ_{i∈R, unintended} Σ_k |ΔW_ik w_k| / Σ_{i∈R} Σ_k |ΔW_ik w_k|     in [0, 1]
    dominant(R)     = the feature k with the largest Σ_{i∈R, dominant_i = k} Σ_l |ΔW_il w_l|

The paper (arXiv 2606.29171) describes interference in words; the formulas are our own. Columns are those of the policy,
whose ids into the dictionary are ``policy.feature_ids``. Where ΔW is known of some columns alone, both sums run over
these: then it says how the row's effect is shared among them, and nothing of the rest.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..errors import ConfigError, MeasurementError, describe
from ..records.account import RowEntry


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


@dataclass(frozen=True, slots=True)
class Pooled:
    """What rows that were read on their own prompts did to the policy; of two sets of rows by ``+``."""

    whole: float = 0.0
    """Σ_i Σ_k |ΔW_ik w_k|, units of y; ≥ 0."""
    outside: float = 0.0
    """Its part on features outside the rows' own I."""
    by_unintended: float = 0.0
    """Its part by rows that are unintended."""
    by_dominant: dict[int, float] = field(default_factory=dict)
    """Its parts by the rows' dominant features, by id."""

    @staticmethod
    def of(rows: Iterable[RowEntry]) -> Pooled:
        """Of these `rows`, but for those that were not read."""
        read = [row for row in rows if not math.isnan(row.absolute_shift + row.interference)]
        by_dominant: dict[int, float] = {}
        for row in read:
            by_dominant[row.dominant_feature] = by_dominant.get(row.dominant_feature, 0.0) + row.absolute_shift
        return Pooled(
            math.fsum(row.absolute_shift for row in read),
            math.fsum(row.absolute_shift * row.interference for row in read),
            math.fsum(row.absolute_shift for row in read if row.unintended),
            by_dominant,
        )

    def __add__(self, other: Pooled) -> Pooled:
        mine, more = self.by_dominant, other.by_dominant
        return Pooled(
            self.whole + other.whole,
            self.outside + other.outside,
            self.by_unintended + other.by_unintended,
            {feature: mine.get(feature, 0.0) + more.get(feature, 0.0) for feature in mine | more},
        )

    @property
    def interference(self) -> float:
        """In [0, 1]; NaN where nothing moved."""
        return self._part(self.outside)

    @property
    def unintended(self) -> float:
        """In [0, 1]; NaN where nothing moved."""
        return self._part(self.by_unintended)

    @property
    def dominant_feature(self) -> int:
        """Its id, the lower one among equals; −1 where nothing moved."""
        return max(sorted(self.by_dominant), key=self.by_dominant.__getitem__) if self.whole > 0 else -1

    def _part(self, part: float) -> float:
        return min(part / self.whole, 1.0) if self.whole > 0 else math.nan


def _magnitudes(left: Tensor, right: Tensor, what: str) -> Tensor:
    """|left_k right_k|, each factor scaled to at most 1 first: ratios stay, in any units, and nothing overflows."""
    factors = []
    for factor in (left.double().abs(), right.double().abs()):
        if not bool(torch.isfinite(factor).all()):
            raise MeasurementError(describe(what, "NaN or Inf", "finite values", "measure the probes again"))
        peak = float(factor.max()) if factor.numel() else 0.0
        factors.append(factor / peak if peak > 0 else factor)
    return factors[0] * factors[1]
