"""What is measured at every step: which probes, with what weights, on which targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import PrerequisiteError, describe
from ..maths.pathways import PolicyFrame, score_cotangent_X, score_cotangent_y
from ..maths.sampling import stratified, stratum, stratum_weights
from ..maths.targets import TargetPlan, plan_targets
from ..records.policy import SymbolicPolicy
from ..records.probes import ProbeSet
from ..records.snapshot import Snapshot


@dataclass(frozen=True)
class StepPlan:
    """The probes measured at both ends of every account, m of the set's N."""

    probes: ProbeSet
    """The whole set."""
    chosen: list[int]
    """Positions of the measured ones in the set."""
    rows: Tensor
    """(m,) their rows in the policy's fit set."""
    weights: Tensor
    """(m,) how many probes each stands for; float64."""
    targets: TargetPlan
    """The targets on them."""

    @property
    def probe_ids(self) -> list[str]:
        """Of the measured probes, in order."""
        return [self.probes.ids[i] for i in self.chosen]

    def part(self, snapshot: Snapshot) -> Snapshot:
        """The measured probes of a snapshot of the whole set."""
        return snapshot.part(self.probe_ids)


def plan_step(probes: ProbeSet, policy: SymbolicPolicy, frame: PolicyFrame, per_step: int, seed: int) -> StepPlan:
    """The stratified choice of `per_step` probes (0: all), the same for the whole run.

    Raises `PrerequisiteError` where a probe is not in the policy's fit set.
    """
    strata = [stratum(probe) for probe in probes]
    chosen = list(range(len(probes))) if per_step == 0 else stratified(strata, per_step, seed)
    rows = _fit_rows(probes, policy)[chosen]
    weights = stratum_weights(strata, chosen)
    targets = plan_targets(
        [probes.probes[i] for i in chosen],
        weights,
        score_cotangent_X(frame, rows, weights),
        score_cotangent_y(frame, rows, weights),
        frame.w,
        "log_probability" if policy.preset == "paper" else "mass",
    )
    return StepPlan(probes, chosen, rows, weights, targets)


def _fit_rows(probes: ProbeSet, policy: SymbolicPolicy) -> Tensor:
    places = {fit_id: i for i, fit_id in enumerate(policy.fit_ids)}
    missing: Sequence[str] = [p for p in probes.ids if p not in places]
    if missing:
        remedy = "fit the policy on these probes (policy.path: fit)."
        found = f"{len(missing)} probes that are not in its fit set, first {missing[0]!r}"
        raise PrerequisiteError(describe("policy", found, "a fit set that contains the probes", remedy))
    return torch.tensor([places[p] for p in probes.ids])
