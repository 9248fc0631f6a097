"""Puts the account of one step together: balances, row entries and feature shifts, from measured and split figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from ..records.account import READINGS, FeatureShift, PastShare, RowEntry, TargetBalance, is_leading
from ..records.policy import SymbolicPolicy
from ..records.snapshot import Snapshot
from .interference import dominant_feature, intended_features, interference
from .pathways import PolicyFrame, alignment, exact_refit, feature_shift, output_shift, remainder
from .read_split import Read, SplitReading
from .readings import Readings
from .ridge import predict
from .score import against, scores, seen_by_answers


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


def balances(names: Sequence[str], measured: Float64[Tensor, " K"], reading: SplitReading) -> tuple[TargetBalance, ...]:
    """One balance per target."""
    columns = torch.stack(
        [
            measured,
            reading.shares.targets.sum(0),
            reading.history.targets[0],
            reading.decay.targets[0],
            reading.shares.targets.abs().sum(0),
            reading.past.sum(0),
            reading.past.abs().sum(0),
        ]
    )
    return tuple(TargetBalance(name, *columns[:, k].tolist()) for k, name in enumerate(names))


def by_probe(measured: Float64[Tensor, "readings m"], reading: SplitReading) -> dict[str, tuple[float, ...]]:
    """``<reading>.measured``, ``.history`` and ``.decay`` of the m probes."""
    found: dict[str, tuple[float, ...]] = {}
    for name, (shift, history, decay) in zip(
        READINGS, zip(measured, _readings(reading.history), _readings(reading.decay), strict=True), strict=True
    ):
        parts = {"measured": shift, "history": history[0], "decay": decay[0]}
        found |= {f"{name}.{part}": tuple(values.tolist()) for part, values in parts.items()}
    return found


def _readings(read: Read) -> list[Tensor]:
    """(n, m) of every reading, without S_X."""
    return list(read.columns[:, 1:].chunk(len(READINGS), dim=1))


def past_shares(
    owners: Sequence[tuple[int, RowFacts]], names: Sequence[str], shares: Float64[Tensor, "h K"]
) -> tuple[PastShare, ...]:
    """One entry per earlier row, whose step and facts are in `owners`, on the leading targets."""
    leading = [(k, name) for k, name in enumerate(names) if is_leading(name)]
    return tuple(
        PastShare(fact.row_id, fact.row_hash, step, {name: float(values[k]) for k, name in leading})
        for (step, fact), values in zip(owners, shares, strict=True)
    )


@dataclass(frozen=True, slots=True)
class OwnReading:
    """The rows of a step on their own prompts; rows without a prompt hold NaN."""

    push: Float64[Tensor, " n"]
    """On the contrast reading, nats."""
    mass: Float64[Tensor, " n"]
    """Log-odds of the behaviour after the step."""
    X: Float64[Tensor, "n d"]
    """Features of the own prompt."""
    expected: Float64[Tensor, " n"]
    """What is expected on it by itself: 1 refuse, −1 answer."""

    @classmethod
    def of(
        cls, alone: Readings, after: Readings, X: Float[Tensor, "n d"], expected: Float64[Tensor, " n"]
    ) -> OwnReading:
        """Of replays: readings of the own prompts after the step without the row (`alone`), where their features `X`
        and what is `expected` on them are known too, and `after` the step with it."""
        return cls(after.contrast - alone.contrast, alone.mass, X.double(), expected)

    def part(self, rows: slice) -> OwnReading:
        """Of some rows."""
        return OwnReading(self.push[rows], self.mass[rows], self.X[rows], self.expected[rows])


def unread(n: int, d: int) -> OwnReading:
    """The reading of `n` rows whose own prompts were not read."""
    shapes = ((n,), (n,), (n, d), (n,))
    return OwnReading(*(torch.full(shape, float("nan"), dtype=torch.float64) for shape in shapes))


def row_entries(
    step: int,
    facts: Sequence[RowFacts],
    names: Sequence[str],
    shares: Read,
    push: Read,
    row_shift: Float64[Tensor, "n d"],
    own: OwnReading,
    policy: SymbolicPolicy,
    answers: Float64[Tensor, "n 2"] | None = None,
) -> tuple[RowEntry, ...]:
    """One entry per row of a step. `row_shift` is ΔW_Y of each row's push, `own` its own prompt, `answers` what its
    answer reads (`rulers.read_answers`)."""
    predicted = predict(policy, own.X)
    shows, asked = (None, None) if answers is None else answers.T
    expected = own.expected if asked is None else seen_by_answers(own.expected, asked)
    score, opposed = scores(own.push, expected, shows), against(own.push, expected)
    share_probes, push_probes = _readings(shares), _readings(push)
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
                share=dict(zip(names, shares.targets[i].tolist(), strict=True)),
                push=dict(zip(names, push.targets[i].tolist(), strict=True)),
                own_push=float(own.push[i]),
                own_mass=float(own.mass[i]),
                own_predicted=float(predicted[i]),
                expected=float(expected[i]),
                interference=interference(row_shift[i], policy.coef, intended) if read else float("nan"),
                absolute_shift=float((row_shift[i].double() * policy.coef.double()).abs().sum()),
                dominant_feature=policy.feature_ids[column] if column >= 0 else -1,
                unintended=read and (bool(opposed[i]) or (column >= 0 and not bool(intended[column]))),
                answer_reading=float("nan") if shows is None else float(shows[i]),
                score=float(score[i]),
                probe_share={name: tuple(of[i].tolist()) for name, of in zip(READINGS, share_probes, strict=True)},
                probe_push={name: tuple(of[i].tolist()) for name, of in zip(READINGS, push_probes, strict=True)},
            )
        )
    return tuple(entries)


@dataclass(frozen=True, slots=True)
class PolicyShift:
    """ΔW of every feature over an account."""

    feature_ids: tuple[int, ...]
    """d ids, in the order of the columns."""
    figures: Float64[Tensor, "4 d"]
    """w, ΔW_X, ΔW_Y and the exact refit's ΔW."""
    remainder: float
    """Of the refit, `pathways.remainder`."""

    def of(self, columns: Sequence[int]) -> tuple[FeatureShift, ...]:
        """Of the features in these columns."""
        return tuple(FeatureShift(self.feature_ids[k], *self.figures[:, k].tolist()) for k in columns)

    def leading(self, count: int) -> tuple[FeatureShift, ...]:
        """Of the `count` features with the largest |ΔW_k w_k|, largest first."""
        coef, shift_X, shift_Y, _ = self.figures
        return self.of(alignment(shift_X + shift_Y, coef).abs().argsort(descending=True)[:count].tolist())


def policy_shift(
    policy: SymbolicPolicy,
    frame: PolicyFrame,
    rows: Int64[Tensor, " m"],
    weights: Float64[Tensor, " m"],
    before: Snapshot,
    after: Snapshot,
) -> PolicyShift:
    """ΔW between two snapshots of the probes at `rows`, and the exact refit's remainder.

    Shifts are weighted by stratum; the remainder compares first order and refit on the measured rows without weights.
    """
    delta_X, delta_y = after.X.double() - before.X.double(), after.y - before.y
    shift_X = feature_shift(frame, rows, delta_X, weights)
    shift_Y = output_shift(frame, rows, delta_y, weights)
    first_order = feature_shift(frame, rows, delta_X) + output_shift(frame, rows, delta_y)
    exact = exact_refit(policy, rows, delta_X, delta_y)
    figures = torch.stack([policy.coef, shift_X, shift_Y, exact])
    return PolicyShift(policy.feature_ids, figures, remainder(exact, first_order))


def mean_drift(start: Snapshot, after: Snapshot, weights: Float64[Tensor, " m"]) -> Float[Tensor, " d"]:
    """Mean of ΔX_k since `start` over the measured probes, weighted by stratum; activation units."""
    delta_X = after.X.double() - start.X.double()
    return (weights @ delta_X / weights.sum()).float()
