"""The gradient that a step would have had without one of its rows, clipped anew.

With the gradient that the optimizer sees g = c·G, rows g_i captured before clipping, and c = ⟨g, Σ g_i⟩/‖Σ g_i‖²:

    G = g/c        without row i: c_i'·(G − g_i),   c_i' = min(1, max_norm/(‖G − g_i‖ + 1e-6))

The loss's denominator stays. G is taken from the optimizer's own gradient rather than from Σ g_i, so that what the
capture misses (rounding, in bf16 some percent) is in the step with the row and in the step without it alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from .step_map import clip_factor


@dataclass(frozen=True, slots=True)
class WholeGradient:
    """The gradient of a step, before and after clipping."""

    total: Float64[Tensor, " p"]
    """G, unclipped."""
    clip_factor: float
    """c, measured; in (0, 1] but for rounding."""
    capture_error: float
    """‖g − c·Σ g_i‖/‖g‖: 0 where the rows' gradients are all of the optimizer's."""

    def without(self, row: Float[Tensor, " p"], max_norm: float) -> Float64[Tensor, " p"]:
        """c_i'·(G − g_i): what the optimizer would have seen without the row of gradient `row`; `max_norm` 0 never
        clips."""
        rest = self.total - row.double()
        return clip_factor(float(rest.norm()), max_norm) * rest


def whole_gradient(rows: Float[Tensor, "n p"], clipped: Float64[Tensor, " p"]) -> WholeGradient | None:
    """From the unclipped `rows` and the `clipped` gradient; None where the step has no gradient, or one that is not
    finite or has nothing of the rows in it: there is nothing to leave out."""
    captured = rows.sum(0, dtype=torch.float64)
    norm, square = float(clipped.norm()), float(captured @ captured)
    factor = float(clipped @ captured) / square if square > 0 else float("nan")
    if not (torch.isfinite(clipped).all() and norm > 0 and 0 < factor < float("inf")):
        return None
    return WholeGradient(clipped / factor, factor, float((clipped - factor * captured).norm()) / norm)
