"""The targets of an account: constant linear functionals of the probes' (ΔX, Δmass, Δcontrast).

What is differentiated are C = 1 + 3m **columns**: S_X = ⟨C, ΔX⟩, and for each of the m measured probes its mass, its
contrast and its explained part x·w. Everything else is a weighted sum of columns: S_Y = g·Δy, and means over the probes
of one kind or of one category of a kind (``mass.harmful``, ``contrast.lookalike.fraud``, …), in nats. Because targets
are constant and linear, accounts of consecutive steps add up, and one gradient of each column splits a step among its
rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from ..records.account import READINGS
from ..records.probes import KINDS, Probe
from ..records.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class TargetPlan:
    """K targets on m measured probes."""

    names: tuple[str, ...]
    """K names: S_X, S_Y, then ``<reading>.<group>`` for every reading and group."""
    cotangent_X: Float64[Tensor, "m d"]
    """C of S_X."""
    cotangent_y: Float64[Tensor, " m"]
    """g of S_Y, on the policy's own reading."""
    groups: Float64[Tensor, "k m"]
    """Weights of each group's mean over the probes; every row sums to 1."""
    coef: Float64[Tensor, " d"]
    """w of the policy: the explained part of a probe is x·w."""
    reading: str
    """The policy's reading y: ``mass`` or ``log_probability``."""

    def delta_y(self, columns: Float64[Tensor, "n C"], saturation: Float64[Tensor, " m"]) -> Float64[Tensor, "n m"]:
        """Δy of every probe from a cause's figures on the columns."""
        return columns[:, 1 : 1 + len(saturation)] * self._factor(saturation)

    def _factor(self, saturation: Tensor) -> Tensor:
        """dy/dmass: `saturation` 1 − P where y is log P, since d log P = (1 − P) d mass; else 1."""
        return saturation if self.reading == "log_probability" else torch.ones_like(saturation)

    def weights(self, saturation: Float64[Tensor, " m"]) -> Float64[Tensor, "K C"]:
        """What columns' gradients are weighted with to give those of the targets; `saturation` is 1 − P by probe."""
        k, m = self.groups.shape
        factor = self._factor(saturation)
        found = torch.zeros(2 + len(READINGS) * k, 1 + len(READINGS) * m, dtype=torch.float64)
        found[0, 0] = 1
        found[1, 1 : 1 + m] = self.cotangent_y * factor
        for i in range(len(READINGS)):
            found[2 + i * k : 2 + (i + 1) * k, 1 + i * m : 1 + (i + 1) * m] = self.groups
        return found

    def measure_probes(self, before: Snapshot, after: Snapshot) -> Float64[Tensor, "readings m"]:
        """The measured shift of every reading of every probe between two snapshots of the same probes."""
        explained = self._moved(before, after) @ self.coef
        return torch.stack([after.mass - before.mass, after.contrast - before.contrast, explained])

    def measure_columns(self, before: Snapshot, after: Snapshot) -> Float64[Tensor, " C"]:
        """The measured shift of every column between two snapshots of the same probes."""
        s_X = (self.cotangent_X * self._moved(before, after)).sum()
        return torch.cat([s_X[None], self.measure_probes(before, after).flatten()])

    def measure(self, before: Snapshot, after: Snapshot) -> Float64[Tensor, " K"]:
        """The measured shift of every target between two snapshots of the same probes."""
        s_X = (self.cotangent_X * self._moved(before, after)).sum()
        s_Y = self.cotangent_y @ (after.y - before.y)
        means = self.measure_probes(before, after) @ self.groups.T
        return torch.cat([torch.stack([s_X, s_Y]), means.flatten()])

    def _moved(self, before: Snapshot, after: Snapshot) -> Tensor:
        return (after.X.double() - before.X.double()).to(self.cotangent_X)


def plan_targets(
    probes: Sequence[Probe],
    weights: Float64[Tensor, " m"],
    cotangent_X: Float64[Tensor, "m d"],
    cotangent_y: Float64[Tensor, " m"],
    coef: Float64[Tensor, " d"],
    reading: str,
) -> TargetPlan:
    """The targets for m `probes` with these stratum `weights` (a probe stands for so many of its set).

    Groups are the kinds present and, where a kind has several, its categories.
    """
    present = [kind for kind in KINDS if any(probe.kind == kind for probe in probes)]
    groups = {kind: [probe.kind == kind for probe in probes] for kind in present}
    for kind in present:
        categories = sorted({probe.category for probe in probes if probe.kind == kind})
        for category in categories if len(categories) > 1 else ():
            groups[f"{kind}.{category}"] = [p.kind == kind and p.category == category for p in probes]
    rows = weights * torch.tensor(list(groups.values()), dtype=torch.float64)
    names = ("S_X", "S_Y", *(f"{reading}.{group}" for reading in READINGS for group in groups))
    return TargetPlan(names, cotangent_X, cotangent_y, rows / rows.sum(1, keepdim=True), coef, reading)
