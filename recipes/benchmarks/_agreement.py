"""How well estimates of rows' effects agree with the exact ones: ranks, sizes, and what rounding hides."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import mean

import torch
from torch import Tensor

from smda_monitor.maths.agreement import median, relative_errors, spearman

FLOOR = 3.0
"""An effect counts from this many times the root mean square of what rounding alone makes."""


@dataclass(frozen=True, slots=True)
class StepFigures:
    """One target in one step, n rows."""

    truth: Tensor
    """(n,) exact effect: with the row minus without it; float64."""
    estimates: dict[str, Tensor]
    """(n,) what each method says, by its name."""
    rounding: Tensor
    """(r,) the same state measured otherwise, minus itself: r differences that rounding makes."""
    unexplained: float
    """What the account leaves unexplained of this target, a fraction."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """One method on one target, over all steps."""

    spearman: float
    """Rank correlation with the exact effects, averaged over steps; NaN where no step has enough rows."""
    relative_error: float
    """Median of |estimate − exact| / |exact|; NaN where no row is above the noise."""
    worst: float
    """The largest of them; NaN where there is none."""


@dataclass(frozen=True, slots=True)
class TargetFigures:
    """One target over all steps."""

    by_method: dict[str, Agreement]
    """Agreement of each method."""
    unexplained: float
    """Median over steps of the unexplained fraction."""
    floor: float
    """Effects up to this are left out: `FLOOR` × rms of all `StepFigures.rounding`; units of the target."""
    rows: int
    """Rows that were judged."""
    left_out: int
    """Rows left out because rounding may be all of their effect."""


@dataclass(slots=True)
class Collected:
    """Figures of steps, as they come."""

    by_target: dict[str, list[StepFigures]] = field(default_factory=dict)
    """One entry per step, by target."""

    def add(self, target: str, figures: StepFigures) -> None:
        """One more step of `target`."""
        self.by_target.setdefault(target, []).append(figures)

    def extend(self, other: Collected) -> None:
        """The steps of another run."""
        for target, steps in other.by_target.items():
            self.by_target.setdefault(target, []).extend(steps)

    def judged(self) -> dict[str, TargetFigures]:
        """Every target over all its steps."""
        return {target: judge(steps) for target, steps in self.by_target.items()}


def judge(steps: Sequence[StepFigures]) -> TargetFigures:
    """One target's `steps` pooled. Rows up to the noise floor are left out of every figure."""
    noise = torch.cat([step.rounding for step in steps])
    floor = FLOOR * float(noise.square().mean().sqrt()) if len(noise) else 0.0
    kept = [step.truth.abs() > floor for step in steps]
    rows = sum(int(k.sum()) for k in kept)
    methods = {
        name: _agreement([(step.estimates[name][k], step.truth[k]) for step, k in zip(steps, kept, strict=True)])
        for name in steps[0].estimates
    }
    return TargetFigures(
        methods,
        median(step.unexplained for step in steps),
        floor,
        rows,
        sum(len(step.truth) for step in steps) - rows,
    )


def _agreement(pairs: Sequence[tuple[Tensor, Tensor]]) -> Agreement:
    by_step = [(estimate.tolist(), truth.tolist()) for estimate, truth in pairs]
    ranks = [rank for step in by_step if not math.isnan(rank := spearman(*step))]
    errors = [error for step in by_step for error in relative_errors(*step)]
    return Agreement(mean(ranks) if ranks else math.nan, median(errors), max(errors, default=math.nan))
