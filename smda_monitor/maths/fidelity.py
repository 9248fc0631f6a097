"""How close the account's push comes to a replay of the step without the row (`agreement`), pooled over the rows
replayed.

Entries whose replayed figure is below the noise floor, or is not finite, are left out and counted. The noise floor of a
target τ = Σ_j a_j x_j of n readings x_j, each rounded to a relative ε of its scale s_j, the roundings independent:

    floor = ROUNDINGS · ε · √(2 Σ_j (a_j s_j)²)             the 2: a difference of two measurements

s_j is the largest size among what a reading is made of: for both readings of a probe its opening log-probabilities and
itself, for a feature that is on the largest activation of its probe.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float64
from torch import Tensor

from ..records.audit import AuditEntry
from ..records.snapshot import Snapshot
from .agreement import median, relative_errors, same_sign, spearman
from .targets import TargetPlan

ROUNDINGS = 8.0
"""Roundings of one unit in the last place that a forward adds up to at its end. The tests' three layers make a quarter
of it at most, against double precision; the rest is for deeper models. Roundings of the parameters are in the step and
in its replay, and are no noise."""
RANKED = 8
"""Entries of a target from which a rank correlation is given."""


def noise_floor(plan: TargetPlan, at: Snapshot, epsilon: float) -> Float64[Tensor, " K"]:
    """The noise floor of every target of `plan`, in its units, for readings like those of `at` in a floating-point type
    whose machine epsilon is `epsilon`."""
    openings = at.openings.double().abs().amax(1)
    mass, contrast, y = (torch.maximum(r.double().abs(), openings) for r in (at.mass, at.contrast, at.y))
    X = at.X.double()
    features = X.amax(1, keepdim=True).expand_as(X) * (X > 0)
    scaled = [
        (plan.cotangent_X * features).square().sum()[None],
        (plan.cotangent_y * y).square().sum()[None],
        (plan.groups * mass).square().sum(1),
        (plan.groups * contrast).square().sum(1),
        plan.groups.square() @ (plan.coef * features).square().sum(1),
    ]
    return ROUNDINGS * epsilon * (2 * torch.cat(scaled)).sqrt()


@dataclass(frozen=True, slots=True)
class Fidelity:
    """Of one target, or of all together."""

    entries: int
    """Pairs of push and replayed figure that are judged."""
    below_noise: int
    """Pairs left out: the replayed figure is below the noise floor, or one of the two is not finite."""
    relative_error: float
    """Median of |push − replayed|/|replayed|, ≥ 0; NaN without entries."""
    sign: float
    """Share of entries whose push and replayed figure have the same sign, in [0, 1]; NaN without entries."""
    spearman: float
    """Rank correlation of push and replayed figure, in [−1, 1]; NaN below `RANKED` entries, or where one of them does
    not vary. Of all targets together: the median over the targets, whose units differ."""


@dataclass(frozen=True, slots=True)
class PooledFidelity:
    """Of a run so far."""

    rows: int
    """Replayed rows that are judged."""
    after_warm_up: bool
    """Whether they are of steps after warm-up alone; else there are none of those yet, and all are of warm-up."""
    targets: dict[str, Fidelity]
    """By target."""
    overall: Fidelity
    """Over all targets."""


def pooled_fidelity(audits: Sequence[AuditEntry], latest: int = 0) -> PooledFidelity:
    """Over the entries after warm-up, or over all where there are none; of the `latest` so many, 0 for all.

    Rows that were asked for are no random sample: they count only where no row was sampled.
    """
    drawn = ([a for a in audits if a.reason == "sample"] or list(audits))[-latest:]
    settled = [a for a in drawn if not a.warm_up]
    judged = settled or drawn
    names = list(dict.fromkeys(name for audit in judged for name in audit.replayed))
    pairs = {
        name: [(a.push[name], a.replayed[name], a.noise[name]) for a in judged if name in a.replayed] for name in names
    }
    targets = {name: fidelity(entries) for name, entries in pairs.items()}
    together = fidelity([pair for entries in pairs.values() for pair in entries], ranked=False)
    correlations = [f.spearman for f in targets.values() if not math.isnan(f.spearman)]
    overall = replace(together, spearman=median(correlations))
    return PooledFidelity(len(judged), bool(settled), targets, overall)


def short_steps(audits: Sequence[AuditEntry], limit: float) -> set[int]:
    """The steps whose replayed rows' pushes miss their replays by more than `limit`, median relative error over rows
    and targets of the step."""
    by_step: dict[int, list[tuple[float, float, float]]] = {}
    for a in audits:
        pairs = ((a.push[name], a.replayed[name], a.noise[name]) for name in a.replayed)
        by_step.setdefault(a.step, []).extend(pairs)
    return {step for step, pairs in by_step.items() if fidelity(pairs, ranked=False).relative_error > limit}


def fidelity(entries: Iterable[tuple[float, float, float]], ranked: bool = True) -> Fidelity:
    """Of pairs given as (push, replayed, noise floor); with `ranked` their rank correlation too."""
    every = list(entries)
    kept = [(p, r) for p, r, floor in every if math.isfinite(p) and math.isfinite(r) and r != 0 and abs(r) >= floor]
    push, replayed = [p for p, _ in kept], [r for _, r in kept]
    return Fidelity(
        entries=len(kept),
        below_noise=len(every) - len(kept),
        relative_error=median(relative_errors(push, replayed)),
        sign=same_sign(push, replayed),
        spearman=spearman(push, replayed, RANKED) if ranked else math.nan,
    )
