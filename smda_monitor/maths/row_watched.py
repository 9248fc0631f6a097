"""What a row judged alone does to the watched features: ΔW_k in both pathways, and how it is shared among them.

    ΔW_k = ΔW_X,k + ΔW_Y,k                                      k one of the K watched features
    interference = Σ_{k∉I} |ΔW_k w_k| / Σ_k |ΔW_k w_k|          both sums over the watched features alone
    dominant = argmax_k |ΔW_k w_k|

I is found among all features (`interference.intended_features`) and then cut to the watched ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float64
from torch import Tensor

from ..records.account import FeatureShift
from ..records.policy import SymbolicPolicy
from .account import OwnReading
from .interference import dominant_feature, intended_features, interference


@dataclass(frozen=True, slots=True)
class WatchedEffect:
    """One row on the watched features."""

    shifts: tuple[FeatureShift, ...]
    """One per watched feature, in their order."""
    intended: tuple[int, ...]
    """Ids of those that lie in I; empty where the row's own prompt was not read."""
    interference: float
    """In [0, 1], 0 where nothing moved; NaN where the own prompt was not read or nothing is watched."""
    dominant: int
    """Feature id; −1 where none moved."""

    def leading(self, count: int) -> tuple[FeatureShift, ...]:
        """The `count` shifts with the largest |ΔW_k w_k|, largest first."""
        return tuple(sorted(self.shifts, key=lambda s: -abs((s.shift_X + s.shift_Y) * s.coefficient))[:count])


def watched_effects(
    policy: SymbolicPolicy,
    columns: Sequence[int],
    through_features: Float64[Tensor, "n K"],
    through_output: Float64[Tensor, "n K"],
    refit: Float64[Tensor, "n K"],
    own: OwnReading,
) -> list[WatchedEffect]:
    """Of n rows on the policy's K `columns`: their ΔW_X and ΔW_Y there, by an exact refit their ΔW (NaN where there is
    none), and their `own` prompts. Raises `MeasurementError` for NaN or Inf in the two shifts."""
    places, found = list(columns), []
    ids = [policy.feature_ids[k] for k in places]
    w = policy.coef.double()[places]
    for i in range(len(through_features)):
        delta_W = through_features[i] + through_output[i]
        read = not bool(own.push[i].isnan()) and len(ids) > 0
        inside = intended_features(own.X[i], policy.coef)[places] if read else w != w
        at = dominant_feature(delta_W, w)
        figures = zip(ids, w.tolist(), *(t[i].tolist() for t in (through_features, through_output, refit)), strict=True)
        found.append(
            WatchedEffect(
                shifts=tuple(FeatureShift(*one) for one in figures),
                intended=tuple(feature for feature, is_in in zip(ids, inside.tolist(), strict=True) if is_in),
                interference=interference(delta_W, w, inside) if read else float("nan"),
                dominant=ids[at] if at >= 0 else -1,
            )
        )
    return found
