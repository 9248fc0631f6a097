"""Puts the account of one step together: balances, row entries and feature shifts, from measured and split figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from ..records.account import FeatureShift, RowEntry, TargetBalance
from ..records.policy import SymbolicPolicy
from ..records.snapshot import Snapshot
from .interference import dominant_feature, intended_features, interference
from .pathways import PolicyFrame, alignment, exact_refit, feature_shift, output_shift, remainder
from .ridge import predict
from .score import Ruler, against, scores
from .split import SplitOnTargets


def balances(names: Sequence[str], measured: Float64[Tensor, " K"], split: SplitOnTargets) -> tuple[TargetBalance, ...]:
    """One balance per target."""
    return tuple(
        TargetBalance(
            name,
            float(measured[k]),
            float(split.shares[:, k].sum()),
            float(split.history[k]),
            float(split.decay[k]),
            float(split.shares[:, k].abs().sum()),
        )
        for k, name in enumerate(names)
    )


@dataclass(frozen=True, slots=True)
class RowFacts:
    """What is known of one row before it is judged."""

    row_id: str
    """Its name."""
    row_hash: str
    """Its content."""
    tokens: int
    """Tokens that carry loss."""
    loss: float
    """Mean loss, nats."""
    gradient_norm: float
    """Norm of its unclipped gradient."""


@dataclass(frozen=True, slots=True)
class OwnReading:
    """The rows of a step on their own prompts; rows without a prompt hold NaN."""

    push: Float64[Tensor, " n"]
    """On the contrast reading, nats."""
    mass: Float64[Tensor, " n"]
    """Log-odds of the behaviour after the step."""
    X: Float64[Tensor, "n d"]
    """Features of the own prompt."""


def unread(n: int, d: int) -> OwnReading:
    """The reading of `n` rows whose own prompts were not read."""
    push, mass, X = (torch.full(shape, float("nan"), dtype=torch.float64) for shape in ((n,), (n,), (n, d)))
    return OwnReading(push, mass, X)


def row_entries(
    step: int,
    facts: Sequence[RowFacts],
    names: Sequence[str],
    split: SplitOnTargets,
    row_shift: Float64[Tensor, "n d"],
    own: OwnReading,
    policy: SymbolicPolicy,
    by: Ruler,
    answers: Float64[Tensor, " n"] | None = None,
) -> tuple[RowEntry, ...]:
    """One entry per row. `row_shift` is ΔW_Y of each row's push, `own` its own prompt, `answers` what it answers."""
    predicted = predict(policy, own.X)
    score = scores(own.push, predicted, by, answers)
    opposed = against(own.push, predicted, by)
    entries = []
    for i, fact in enumerate(facts):
        read = not bool(own.push[i].isnan())
        intended = intended_features(own.X[i], policy.coef) if read else torch.ones_like(policy.coef, dtype=torch.bool)
        column = dominant_feature(row_shift[i], policy.coef)
        entries.append(
            RowEntry(
                step=step,
                row_id=fact.row_id,
                row_hash=fact.row_hash,
                tokens=fact.tokens,
                loss=fact.loss,
                gradient_norm=fact.gradient_norm,
                share={name: float(split.shares[i, k]) for k, name in enumerate(names)},
                push={name: float(split.push[i, k]) for k, name in enumerate(names)},
                own_push=float(own.push[i]),
                own_mass=float(own.mass[i]),
                own_predicted=float(predicted[i]),
                interference=interference(row_shift[i], policy.coef, intended) if read else float("nan"),
                dominant_feature=policy.feature_ids[column] if column >= 0 else -1,
                unintended=read and (bool(opposed[i]) or (column >= 0 and not bool(intended[column]))),
                answer_reading=float("nan") if answers is None else float(answers[i]),
                score=float(score[i]),
            )
        )
    return tuple(entries)


def feature_shifts(
    policy: SymbolicPolicy,
    frame: PolicyFrame,
    rows: Int64[Tensor, " m"],
    weights: Float64[Tensor, " m"],
    before: Snapshot,
    after: Snapshot,
    leading: int,
) -> tuple[tuple[FeatureShift, ...], float]:
    """The `leading` features by |ΔW_k w_k| of the account, and the exact refit's remainder.

    Shifts are weighted by stratum; the remainder compares first order and refit on the measured rows without weights.
    """
    delta_X, delta_y = after.X.double() - before.X.double(), after.y - before.y
    shift_X = feature_shift(frame, rows, delta_X, weights)
    shift_Y = output_shift(frame, rows, delta_y, weights)
    first_order = feature_shift(frame, rows, delta_X) + output_shift(frame, rows, delta_y)
    exact = exact_refit(policy, rows, delta_X, delta_y)
    order = alignment(shift_X + shift_Y, policy.coef).abs().argsort(descending=True)[:leading].tolist()
    figures = torch.stack([policy.coef, shift_X, shift_Y, exact])
    shifts = tuple(FeatureShift(policy.feature_ids[k], *figures[:, k].tolist()) for k in order)
    return shifts, remainder(exact, first_order)


def mean_drift(start: Snapshot, after: Snapshot, weights: Float64[Tensor, " m"]) -> Float[Tensor, " d"]:
    """Mean of ΔX_k since `start` over the measured probes, weighted by stratum; activation units."""
    delta_X = after.X.double() - start.X.double()
    return (weights @ delta_X / weights.sum()).float()
