"""What is measured at every step: which probes, with what weights, on which targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import PrerequisiteError, describe
from ..maths.pathways import PolicyFrame, score_cotangent_X, score_cotangent_y
from ..maths.sampling import stratified, stratum_weights, weighted_mean_and_error
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

    def part(self, snapshot: Snapshot) -> Snapshot:
        """The measured probes of a snapshot of the whole set."""
        at = [snapshot.probe_ids.index(self.probes.ids[i]) for i in self.chosen]
        return Snapshot(
            snapshot.step,
            tuple(snapshot.probe_ids[i] for i in at),
            snapshot.X[at],
            snapshot.y[at],
            snapshot.mass[at],
            snapshot.contrast[at],
            snapshot.openings[at],
            snapshot.health,
        )

    def refusal(self, snapshot: Snapshot) -> tuple[dict[str, float], dict[str, float]]:
        """Weighted mean and standard error of both readings by kind; `snapshot` holds the chosen probes."""
        means, errors = {}, {}
        strata = [_stratum(self.probes, i) for i in range(len(self.probes))]
        for reading in ("mass", "contrast"):
            values = getattr(snapshot, reading)
            for kind in dict.fromkeys(p.kind for p in self.probes):
                here = [j for j, i in enumerate(self.chosen) if self.probes.probes[i].kind == kind]
                if not here:
                    continue
                population = [s for s, p in zip(strata, self.probes, strict=True) if p.kind == kind]
                mine = [strata[self.chosen[j]] for j in here]
                name = f"{reading}.{kind}"
                means[name], errors[name] = weighted_mean_and_error(values[here], self.weights[here], mine, population)
        return means, errors


def plan_step(probes: ProbeSet, policy: SymbolicPolicy, frame: PolicyFrame, per_step: int, seed: int) -> StepPlan:
    """The stratified choice of `per_step` probes (0: all), the same for the whole run.

    Raises `PrerequisiteError` where a probe is not in the policy's fit set.
    """
    strata = [_stratum(probes, i) for i in range(len(probes))]
    chosen = list(range(len(probes))) if per_step == 0 else stratified(strata, per_step, seed)
    rows = _fit_rows(probes, policy)[chosen]
    weights = stratum_weights(strata, chosen)
    targets = plan_targets(
        [probes.probes[i].kind for i in chosen],
        weights,
        score_cotangent_X(frame, rows, weights),
        score_cotangent_y(frame, rows, weights),
        "log_probability" if policy.preset == "paper" else "mass",
    )
    return StepPlan(probes, chosen, rows, weights, targets)


def _stratum(probes: ProbeSet, i: int) -> str:
    return f"{probes.probes[i].kind}/{probes.probes[i].category}"


def _fit_rows(probes: ProbeSet, policy: SymbolicPolicy) -> Tensor:
    places = {fit_id: i for i, fit_id in enumerate(policy.fit_ids)}
    missing: Sequence[str] = [p for p in probes.ids if p not in places]
    if missing:
        remedy = "fit the policy on these probes (policy.path: fit)."
        found = f"{len(missing)} probes that are not in its fit set, first {missing[0]!r}"
        raise PrerequisiteError(describe("policy", found, "a fit set that contains the probes", remedy))
    return torch.tensor([places[p] for p in probes.ids])
