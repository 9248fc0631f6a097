"""What retraining shows: how far the behaviour on held-out prompts moves when rows are taken out, beside random rows.

    d_A (s, n) = y of arm A less y of the baseline, by seed and prompt      A: flagged, random, planted
    recovered_A = ⟨d̄_A, d̄_P⟩ / ‖d̄_P‖²                                      the bar: the mean over seeds; P: planted

Random removal is the measure of what taking out any rows of that number and length does. An effect is shown where the
interval of ``recovered_flagged`` lies above 0 and above that of random removal; where no rows are known to be planted,
where d_F − d_R of some kind of prompt keeps clear of 0 in intervals that hold for all kinds together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float64
from torch import Tensor

from ..records.policy_findings import Estimate
from ..records.probes import KINDS
from ..records.proof import MEASURES, ArmName, ArmRun, Finding, KindFigures, ProofFigures, Recovery
from .crossed import LEVEL, draw, mean_change, recovered, recovered_apart

Measured = Mapping[str, Float64[Tensor, "s n"]]
"""By measure (`MEASURES`), seeds and prompts of one arm; random draws under one seed are averaged."""


def measured(runs: Sequence[ArmRun], threshold: float) -> dict[str, Float64[Tensor, "s n"]]:
    """The runs of one arm, by measure; `threshold` is where the reading counts as the behaviour."""
    seeds = sorted({run.seed for run in runs})
    by_seed = [[run for run in runs if run.seed == seed] for seed in seeds]
    readings, shows = (
        [torch.tensor([getattr(run, name) for run in found], dtype=torch.float64) for found in by_seed]
        for name in ("readings", "shows")
    )
    return {
        "log_odds": torch.stack([one.mean(0) for one in readings]),
        "scorer": torch.stack([(one > threshold).double().mean(0) for one in readings]),
        "decoding": torch.stack([one.mean(0) for one in shows]),
    }


def proof_figures(arms: Mapping[ArmName, Measured], kinds: Sequence[str], seed: int) -> ProofFigures:
    """The figures of all `arms` on prompts of these `kinds`; ``all`` (the baseline), ``flagged`` and ``random`` are
    there, and ``planted`` where such rows are known."""
    changes = {name: {m: found[m] - arms["all"][m] for m in MEASURES} for name, found in arms.items()}
    groups = {kind: [j for j, one in enumerate(kinds) if one == kind] for kind in KINDS if kind in kinds}
    joint = 1 - (1 - LEVEL) / len(groups)
    found = []
    for kind, columns in {"": list(range(len(kinds))), **groups}.items():
        by = draw(len(arms["all"]["log_odds"]), len(columns), seed)
        for name, levels in arms.items():
            change = {m: changes[name][m][:, columns] for m in MEASURES} if name != "all" else {}
            beyond = {m: d - changes["random"][m][:, columns] for m, d in change.items() if name != "random"}
            found.append(
                KindFigures(
                    arm=name,
                    kind=kind,
                    prompts=len(columns),
                    level={m: mean_change(levels[m][:, columns], by) for m in MEASURES},
                    change={m: mean_change(d, by) for m, d in change.items()},
                    beyond_random={m: mean_change(d, by, joint) for m, d in beyond.items()},
                )
            )
    recovery = _recovery({name: one["log_odds"] for name, one in changes.items()}, seed)
    return ProofFigures(tuple(found), recovery, _finding(recovery, found))


def _recovery(d: Mapping[ArmName, Tensor], seed: int) -> Recovery | None:
    if "planted" not in d:
        return None
    truth = d["planted"]
    by = draw(truth.shape[0], truth.shape[1], seed)
    return Recovery(
        recovered(d["flagged"], truth, by),
        recovered(d["random"], truth, by),
        recovered_apart(d["flagged"], truth),
        recovered_apart(d["random"], truth),
    )


def _finding(recovery: Recovery | None, kinds: Sequence[KindFigures]) -> Finding:
    if recovery is not None:
        flagged, random = recovery.flagged, recovery.random
        if flagged.low != flagged.low or random.low != random.low:
            return "not known"
        if flagged.low <= 0:
            return "nothing"
        return "shown" if flagged.low > random.high else "as random"
    flagged_kinds = [one for one in kinds if one.arm == "flagged" and one.kind]
    if any(_clear(one.beyond_random["log_odds"]) for one in flagged_kinds):
        return "shown"
    return "as random" if any(_clear(one.change["log_odds"]) for one in flagged_kinds) else "nothing"


def _clear(found: Estimate) -> bool:
    """Whether the interval does not reach 0."""
    return found.low > 0 or found.high < 0
