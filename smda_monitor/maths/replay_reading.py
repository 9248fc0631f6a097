"""A step of an optimizer whose map is not known, made up of its rows by replays.

With τ measured on the probes after the step, after the same step without row i, after the step that the optimizer takes
on a zero gradient, and before:

    push_i = share_i = τ(with) − τ(without i)     history = τ(zero gradient) − τ(before)     decay = 0

The pushes are finite effects: gate switches and curvature are in. They need not add up: what rows do to each other
stays unexplained.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float64
from torch import Tensor

from ..records.snapshot import Snapshot
from .read_split import Read, SplitReading
from .targets import TargetPlan


def replay_reading(
    plan: TargetPlan,
    before: Snapshot,
    alone: Snapshot,
    without: Sequence[Snapshot],
    after: Snapshot,
    own: Float64[Tensor, " n"],
) -> SplitReading:
    """From snapshots of the plan's probes: `before` the step, `after` it, after it `without` each of the n rows, and
    after the step of a zero gradient (`alone`); `own` are the pushes on the rows' own prompts."""
    rows = read_measured(plan, [(snapshot, after) for snapshot in without])
    history = read_measured(plan, [(before, alone)])
    nothing = Read(torch.zeros_like(history.targets), torch.zeros_like(history.columns))
    past = torch.zeros(0, len(plan.names), dtype=torch.float64)
    return SplitReading(rows, rows, history, nothing, past, own)


def read_measured(plan: TargetPlan, ends: Sequence[tuple[Snapshot, Snapshot]]) -> Read:
    """The measured shifts between each pair of `ends`, (from, to), one pair at least."""
    return Read(
        torch.stack([plan.measure(start, end) for start, end in ends]),
        torch.stack([plan.measure_columns(start, end) for start, end in ends]),
    )


def pushed_y(without: Sequence[Snapshot], after: Snapshot) -> Float64[Tensor, "n m"]:
    """Δy of every probe by each of n ≥ 1 rows: y after the step less y after the step `without` the row."""
    return torch.stack([after.y - one.y for one in without])
