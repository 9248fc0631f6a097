"""The targets of an account: constant linear functionals of the probes' (ΔX, Δmass, Δcontrast).

S_X = ⟨C, ΔX⟩ and S_Y = g·Δy are the symbolic policy's two pathways (`pathways`); ``mass.<kind>`` and
``contrast.<kind>`` are weighted means over the measured probes of one kind, in nats. Because they are constant and
linear, accounts of consecutive steps add up, and one gradient of each target splits a step among its rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ..records.probes import KINDS
from ..records.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class TargetPlan:
    """K targets on m measured probes."""

    names: tuple[str, ...]
    """K names: S_X, S_Y, then mass.<kind> and contrast.<kind> of the kinds present."""
    cotangent_X: Float64[Tensor, "m d"]
    """C of S_X."""
    cotangent_y: Float64[Tensor, " m"]
    """g of S_Y, on the policy's own reading."""
    kind_weights: Float64[Tensor, "k m"]
    """Weights of each kind's mean over the probes; every row sums to 1."""
    reading: str
    """The policy's reading y: ``mass`` or ``log_probability``."""

    @property
    def n_kinds(self) -> int:
        """Kinds present."""
        return self.kind_weights.shape[0]

    def mass_weights(self, saturation: Float64[Tensor, " m"]) -> Float64[Tensor, "one_plus_k m"]:
        """What the rows' mass gradients are weighted with to give those of S_Y and of each mass.<kind>.

        `saturation` is 1 − P of every probe: d log P = (1 − P) d mass, for a policy fitted to the log-probability.
        """
        factor = saturation if self.reading == "log_probability" else torch.ones_like(saturation)
        return torch.cat([(self.cotangent_y * factor)[None], self.kind_weights])

    def measure(self, before: Snapshot, after: Snapshot) -> Float64[Tensor, " K"]:
        """The measured shift of every target between two snapshots of the same probes."""
        delta_X = (after.X.double() - before.X.double()).to(self.cotangent_X)
        s_X = (self.cotangent_X * delta_X).sum()
        s_Y = self.cotangent_y @ (after.y - before.y)
        mass = self.kind_weights @ (after.mass - before.mass)
        contrast = self.kind_weights @ (after.contrast - before.contrast)
        return torch.cat([torch.stack([s_X, s_Y]), mass, contrast])


def plan_targets(
    kinds: Sequence[str],
    weights: Float64[Tensor, " m"],
    cotangent_X: Float64[Tensor, "m d"],
    cotangent_y: Float64[Tensor, " m"],
    reading: str,
) -> TargetPlan:
    """The targets for m probes of these `kinds` and stratum `weights` (a probe stands for so many of its set)."""
    present = [kind for kind in KINDS if kind in kinds]
    rows = torch.stack([weights * torch.tensor([k == kind for k in kinds], dtype=torch.float64) for kind in present])
    names = ("S_X", "S_Y", *(f"mass.{k}" for k in present), *(f"contrast.{k}" for k in present))
    return TargetPlan(names, cotangent_X, cotangent_y, rows / rows.sum(1, keepdim=True), reading)


@dataclass(frozen=True, slots=True)
class TargetGradients:
    """Gradients of the K targets at one set of parameters, and what the same pass gave by probe."""

    gradients: Float[Tensor, "K p"]
    """One row per target, in the order of the plan."""
    dots: Float64[Tensor, "n m"]
    """⟨direction_i, ∇y_j⟩ for the n directions that were asked for (n may be 0): first-order Δy of probe j."""
