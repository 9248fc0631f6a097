"""A step, or the steps between two snapshots, read on the targets.

    share_i(τ) = ⟨u_i, ∇τ at the middle of its step⟩      adds up, with history and decay, to the interval's first order
    push_i(τ)  = ⟨δ_i, ∇τ at the end of its step⟩          what the step would have lacked without row i
    momentum's part of step t is handed on: an earlier row r gets ⟨weight_r · momentum_scale∘g_r, ∇τ⟩ of it

∇τ is known at both snapshots and goes linearly in between: for step j of J, α = (j + ½)/J at its middle and (j + 1)/J
at its end, ∇τ ≈ (1 − α)∇τ_before + α∇τ_after. With J = 1 that is the trapezoid, which takes the shares' error from some
percent to some hundredths of a percent, and the push at the step's end, where the row was present.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from .past import PastStep, aligned, weights_in_buffer
from .split import SLAB, TakenStep, directions


@runtime_checkable
class ColumnGradients(Protocol):
    """Gradients of C columns over the flat vector, at one set of parameters."""

    def blocks(self, start: int, stop: int) -> Iterator[tuple[Int64[Tensor, " c"], Float[Tensor, "c q"]]]:
        """Over the elements from `start` to before `stop`: numbers of some columns and their gradients, until every
        column was there once."""


@dataclass(frozen=True, slots=True)
class End:
    """One end of an account."""

    gradients: ColumnGradients
    """Of the C columns there."""
    weights: Float64[Tensor, "K C"]
    """From columns to targets there."""


@dataclass(frozen=True, slots=True)
class EndReading:
    """What the rows of J steps did, read at one end of their account."""

    dots: Float64[Tensor, "d C"]
    """On the columns: of every step the rows' shares, their pushes, history and decay; then this end's part of what is
    handed on to each earlier row."""
    weights: Float64[Tensor, "K C"]
    """From columns to targets there."""
    own: Float64[Tensor, " n"]
    """As in `SplitReading`."""

    @staticmethod
    def whole(parts: Sequence[EndReading]) -> EndReading:
        """Of `parts`, at least one, that were read on different columns, or on parts of them, and own prompts."""
        dots = torch.stack([part.dots for part in parts]).sum(0)
        return EndReading(dots, parts[0].weights, only([part.own for part in parts]))


def only(parts: Sequence[Float64[Tensor, " n"]]) -> Float64[Tensor, " n"]:
    """Each of n figures as the one of the `parts` has it that knows it; NaN where none does."""
    found = parts[0]
    for part in parts[1:]:
        found = torch.where(found.isnan(), part, found)
    return found


@dataclass(frozen=True, slots=True)
class Read:
    """Figures of one kind of cause, by target and by column."""

    targets: Float64[Tensor, "n K"]
    """On the targets."""
    columns: Float64[Tensor, "n C"]
    """On the columns."""

    @classmethod
    def of(cls, columns: Float64[Tensor, "n C"], weights: Float64[Tensor, "K C"]) -> Read:
        """From figures on the columns, of which `weights` makes the targets."""
        return cls(columns @ weights.T, columns)

    def part(self, rows: slice) -> Read:
        """Of some rows."""
        return Read(self.targets[rows], self.columns[rows])


@dataclass(frozen=True, slots=True)
class SplitReading:
    """J steps with n rows in all, read on K targets and C columns."""

    shares: Read
    """Of every row, the steps one after the other."""
    push: Read
    """Of every row."""
    history: Read
    """Momentum's part, one line for all steps; what was handed on is still in it."""
    decay: Read
    """Weight decay's part, one line."""
    past: Float64[Tensor, "h K"]
    """History handed on to each row of `past`, and then of the J − 1 first steps, on the targets."""
    own: Float64[Tensor, " n"]
    """⟨δ_i, gradient of the row's own prompt after the last step⟩ of every row; NaN where it was not read."""


def read_end(
    taken: Sequence[TakenStep],
    past: Sequence[PastStep],
    end: End,
    last: bool,
    own: ColumnGradients | None = None,
    own_rows: Sequence[int] = (),
) -> EndReading:
    """`taken`, the J steps between two snapshots, read on the columns at one `end`: the `last` or the first. Each is
    read by itself, so that the gradients of the first can go before those of the last are made.

    `past` are the steps before them whose rows' gradients were kept; `own` the gradients of the own prompts of the rows
    numbered `own_rows` among the n.
    """
    past, taken = aligned(past, taken)
    earlier, in_buffer = [*past, *(PastStep.of(step) for step in taken[:-1])], weights_in_buffer(past, taken)
    sizes = [size for step in taken for size in (step.rows.rows, step.rows.rows, 1, 1)]
    sizes += [step.rows.rows for step in earlier]
    dots = torch.zeros(sum(sizes), end.weights.shape[1], dtype=torch.float64)
    pushes = torch.cat(torch.split(torch.arange(len(dots)), sizes)[1 : 4 * len(taken) : 4])
    own_at = torch.tensor(own_rows, dtype=torch.int64)
    own_push = torch.full((len(pushes),), float("nan"), dtype=torch.float64)
    own_push[own_at] = 0
    for slabs in zip(*(step.step.slabs(SLAB) for step in taken), strict=True):
        number, start, stop, _ = slabs[0]
        lines = torch.empty(len(dots), stop - start, device=taken[0].gradient.clipped.device)
        into, scales = iter(torch.split(lines, sizes)), []
        for step, (*_, part) in zip(taken, slabs, strict=True):
            found = directions(step.gradient, part, start, stop)
            for numbers in (found.shares, found.push, found.history, found.decay):
                next(into).copy_(numbers)
            scales.append(found.momentum_scale)
        for one, pull in zip(earlier, _pulls([step[number] for step in in_buffer], scales, last), strict=True):
            torch.mul(one.rows.dense(start, stop), pull, out=next(into))
        for places, gradients in end.gradients.blocks(start, stop):
            dots[:, places] += (lines @ gradients.T).double().cpu()
        for places, gradients in own.blocks(start, stop) if own else ():
            at = own_at[places]
            own_push[at] += (lines[pushes[at]] * gradients).sum(1).double().cpu()
    return EndReading(dots, end.weights, own_push)


def read_split(taken: Sequence[TakenStep], first: EndReading, last: EndReading) -> SplitReading:
    """`taken`, read at both ends of their account; the own prompts' figures are those of the last."""
    ends, sizes = (first, last), [2 * step.rows.rows + 2 for step in taken]
    dots = torch.stack([first.dots, last.dots])
    *by_step, handed = torch.split(dots, [*sizes, dots.shape[1] - sum(sizes)], dim=1)
    kinds: dict[str, list[Read]] = {"shares": [], "push": [], "history": [], "decay": []}
    for j, (step, found) in enumerate(zip(taken, by_step, strict=True)):
        n = step.rows.rows
        middle = _between(found, ends, (j + 0.5) / len(taken))
        end = _between(found, ends, (j + 1) / len(taken))
        kinds["shares"].append(middle.part(slice(0, n)))
        kinds["push"].append(end.part(slice(n, 2 * n)))
        kinds["history"].append(middle.part(slice(2 * n, 2 * n + 1)))
        kinds["decay"].append(middle.part(slice(2 * n + 1, 2 * n + 2)))

    def listed(name: str) -> Read:
        return Read(torch.cat([r.targets for r in kinds[name]]), torch.cat([r.columns for r in kinds[name]]))

    def summed(name: str) -> Read:
        whole = listed(name)
        return Read(whole.targets.sum(0, keepdim=True), whole.columns.sum(0, keepdim=True))

    past = sum(found @ end.weights.T for found, end in zip(handed, ends, strict=True))
    return SplitReading(listed("shares"), listed("push"), summed("history"), summed("decay"), past, last.own)


def read_pushes(taken: TakenStep, gradients: ColumnGradients, columns: int) -> Float64[Tensor, "n C"]:
    """⟨δ_i, ∇τ⟩ of every row of one step on C `columns`, whose `gradients` are those at the step's end."""
    found = torch.zeros(taken.rows.rows, columns, dtype=torch.float64)
    for _, start, stop, part in taken.step.slabs(SLAB):
        push = directions(taken.gradient, part, start, stop).push.float()
        for places, towards in gradients.blocks(start, stop):
            found[:, places] += (push @ towards.T).double().cpu()
    return found


def _pulls(in_buffer: Sequence[Sequence[float]], scales: Sequence[Tensor], last: bool) -> list[Tensor]:
    """For every earlier step, what its rows are multiplied by to give, at one end, what they hold of the momentum of
    all steps: Σ_j (1 − α_j)·weight_j·scale_j at the first, Σ_j α_j·weight_j·scale_j at the `last`, α_j at the middle of
    step j.

    `in_buffer`: by step j, the weight in the buffer of each step before it; `scales`: by step, (q,).
    """
    count, found = len(scales), []
    for earlier in range(len(in_buffer[-1])):
        held = [(j, weights[earlier]) for j, weights in enumerate(in_buffer) if earlier < len(weights)]
        alphas = [(j + 0.5) / count for j, _ in held]
        parts = [
            weight * (alpha if last else 1 - alpha) * scales[j] for (j, weight), alpha in zip(held, alphas, strict=True)
        ]
        found.append(torch.stack(parts).sum(0).float())
    return found


def _between(dots: Float64[Tensor, "2 d C"], ends: tuple[EndReading, EndReading], alpha: float) -> Read:
    start, stop = (Read.of(found, end.weights) for found, end in zip(dots, ends, strict=True))
    return Read(torch.lerp(start.targets, stop.targets, alpha), torch.lerp(start.columns, stop.columns, alpha))
