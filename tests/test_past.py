"""Which part of the momentum buffer is whose, against torch's own optimizers over several steps of random rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from taken import across, read_between, take_step
from test_step_map import ADAM, Bench, bench_of, flat, gradients, relative
from torch import Tensor, nn

from smda_monitor.instruments.optimizer_step import read_step
from smda_monitor.instruments.parameters import trained_parameters
from smda_monitor.maths.adam import AdamStep
from smda_monitor.maths.past import PastStep, remember, weights_in_buffer
from smda_monitor.maths.read_split import End
from smda_monitor.maths.split import TakenStep

STEPS, P = 6, 32


@dataclass(frozen=True)
class Fixed:
    """Gradients that are known as a whole."""

    matrix: Tensor

    def blocks(self, start: int, stop: int) -> Iterator[tuple[Tensor, Tensor]]:
        """In two portions, the later columns first."""
        for places in torch.arange(len(self.matrix)).tensor_split(2)[::-1]:
            yield places, self.matrix[places, start:stop]


def two(kind: Any, second: dict[str, Any] | None = None, **options: Any) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """Two groups that differ in learning rate, and as `second` says."""
    return kind, {"lr": 1e-2, **options}, {"lr": 3e-3, **options, **(second or {})}


OPTIMIZERS = {
    "AdamW with decay": (torch.optim.AdamW, *ADAM),
    "Adam": two(torch.optim.Adam),
    "AdamW, two betas": two(torch.optim.AdamW, {"betas": (0.5, 0.9)}, weight_decay=0.1),
    "AdamW amsgrad": two(torch.optim.AdamW, amsgrad=True),
    "AdamW maximize": two(torch.optim.AdamW, maximize=True),
    "SGD momentum": two(torch.optim.SGD, {"momentum": 0.7}, momentum=0.9),
    "SGD Nesterov": two(torch.optim.SGD, momentum=0.8, nesterov=True),
    "SGD dampening": two(torch.optim.SGD, momentum=0.9, dampening=0.4),
    "SGD maximize": two(torch.optim.SGD, momentum=0.9, maximize=True),
}
"""Optimizers that remember, none with coupled decay."""


def trained(groups: tuple[Any, dict[str, Any], dict[str, Any]], steps: int = STEPS) -> tuple[Bench, list[TakenStep]]:
    """`steps` real steps of three to five random rows, clipped every second time, under a schedule."""
    mine, found = bench_of(torch.float64, *groups), []
    for t in range(1, steps + 1):
        for group in mine.optimizer.param_groups:
            group["lr"] *= 0.8
        rows, max_norm = gradients(t, n=3 + t % 3), 0.5 * (t % 2)
        clipped = mine.clipped(rows, max_norm)
        step = read_step(mine.optimizer, mine.parameters)
        found.append(take_step(t, step, rows, clipped, max_norm))
        mine.step()
    return mine, found


def handed(past: list[PastStep], taken: list[TakenStep]) -> Tensor:
    """(h, p) the part of the last step's history of every row before it."""
    last, earlier = taken[-1], [*(one.rows for one in past), *(one.rows for one in taken[:-1])]
    rows = torch.cat([torch.zeros(0, P).double(), *(one.dense(0, P).double() for one in earlier)])
    counts = torch.tensor([one.rows for one in earlier], dtype=torch.int64)
    in_buffer = weights_in_buffer(past, taken)[-1]
    weights = [torch.tensor(by_step, dtype=torch.float64).repeat_interleave(counts) for by_step in in_buffer]
    found = [
        weights[number][:, None] * part.momentum_scale(last.gradient.clipped[a:b]) * rows[:, a:b]
        for number, a, b, part in last.step.slabs(1000)
    ]
    return torch.cat(found, dim=1)


def history(taken: TakenStep) -> Tensor:
    return across(taken.step, "history", taken.gradient.clipped)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_history_is_the_sum_over_all_earlier_rows(name: str) -> None:
    _, taken = trained(OPTIMIZERS[name])
    found, whole = handed([], taken), history(taken[-1])
    assert len(found) == sum(one.rows.rows for one in taken[:-1])
    assert relative(found.sum(0), whole) < 1e-9
    moved = across(taken[-1].step, "update", taken[-1].gradient.clipped)
    assert float(whole.norm()) > 0.1 * float(moved.norm()), "history is not small"
    assert relative(found[taken[0].rows.rows :].sum(0), whole) > 1e-4, "the first step counts, too"


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_does_not_matter_when_an_account_was_closed(name: str) -> None:
    """Steps that are remembered hold what they would hold within one account."""
    _, taken = trained(OPTIMIZERS[name])
    at_once = handed([], taken)
    for closed in range(1, STEPS):
        past = [PastStep.of(taken[0])]
        for step in taken[1:closed]:
            past = [one.after(step) for one in past] + [PastStep.of(step)]
        assert torch.allclose(handed(past, taken[closed:]), at_once, rtol=1e-12, atol=0)


def test_weights_by_hand() -> None:
    """Of Adam, c·(1 − β1) times β1 for every step since; of SGD with dampening, the first step is not dampened."""
    _, taken = trained(two(torch.optim.AdamW, {"betas": (0.5, 0.9)}))
    before = weights_in_buffer([], taken)
    assert [len(weights) for weights in before[0]] == [0, 0], "nothing is before the first step"
    for number, (_, part) in enumerate(taken[0].step.parts):
        assert isinstance(part, AdamStep)
        beta = part.beta1
        factors = [one.gradient.clip_factor for one in taken[:-1]]
        by_hand = [c * (1 - beta) * beta ** (STEPS - 1 - t) for t, c in enumerate(factors, start=1)]
        assert before[-1][number] == pytest.approx(by_hand, rel=1e-12)
    assert {part.beta1 for _, part in taken[0].step.parts if isinstance(part, AdamStep)} == {0.9, 0.5}
    _, damped = trained(two(torch.optim.SGD, momentum=0.9, dampening=0.4))
    weights = weights_in_buffer([], damped)[2][0]
    factors = [step.gradient.clip_factor for step in damped[:2]]
    assert weights == pytest.approx([factors[0] * 0.9, factors[1] * 0.6], rel=1e-12)


def test_without_momentum_nothing_is_handed_on() -> None:
    _, taken = trained(two(torch.optim.SGD, weight_decay=0.1))
    assert not bool(handed([], taken).any())
    assert not bool(history(taken[-1]).any())


@pytest.mark.parametrize("kind", ["Adam", "SGD"])
def test_coupled_decay_in_the_buffer_is_nobodys(kind: str) -> None:
    """It is what stays of history when all rows have had theirs, and it is known by itself."""
    options: dict[str, Any] = {"weight_decay": 0.3, **({"momentum": 0.9} if kind == "SGD" else {})}
    retained, kept = 0.9, 1.0 if kind == "SGD" else 0.1
    _, taken = trained(two(torch.optim.SGD if kind == "SGD" else torch.optim.Adam, **options))
    last = taken[-1]
    buffer = torch.zeros(P, dtype=torch.float64)
    for one in taken[:-1]:
        theta = flat([part.theta for _, part in one.step.parts])  # type: ignore[attr-defined]
        buffer = retained * buffer + kept * 0.3 * theta
    seen = last.gradient.clipped
    expected = torch.cat([part.momentum_scale(seen[a:b]) * buffer[a:b] for _, a, b, part in last.step.slabs(P)])
    rest = history(last) - handed([], taken).sum(0)
    assert relative(rest, expected) < 1e-9
    assert float(rest.norm()) > 1e-3 * float(history(last).norm())


def late(absent: Sequence[int], steps: int = STEPS) -> list[TakenStep]:
    """AdamW where a layer in the middle of a group has no gradient at all in the steps `absent`: parts differ."""
    torch.manual_seed(0)
    net = nn.Sequential(*(nn.Linear(4, 4, bias=False) for _ in range(2))).double()
    parameters, optimizer = trained_parameters(net), torch.optim.AdamW(net.parameters(), lr=1e-2)
    found = []
    for t in range(1, steps + 1):
        rows = gradients(t)
        if t in absent:
            rows[:, 16:] = 0
        for tensor in parameters.tensors:
            gradient = rows.sum(0)[tensor.start : tensor.stop].reshape(tensor.parameter.shape)
            tensor.parameter.grad = gradient.clone() if tensor.start < 16 or t not in absent else None
        step = read_step(optimizer, parameters)
        found.append(take_step(t, step, rows, rows.sum(0), 0.0))
        optimizer.step()
    return found


@pytest.mark.parametrize(
    ("absent", "parts"),
    [((1, 2), [2, 2, 2, 2, 2, 2]), ((2,), [1, 2, 2, 2, 2, 2]), ((2, 4), [1, 2, 2, 2, 2, 2])],
    ids=["joins later", "pauses once", "pauses again"],
)
def test_parameters_that_join_later_or_pause(absent: tuple[int, ...], parts: list[int]) -> None:
    """What the buffer holds of them meanwhile stays as it is."""
    taken = late(absent)
    assert [len(one.step.parts) for one in taken] == parts, "what is being tested"
    past = remember([], taken[:3], 9, 2**30)
    ends = (End(Fixed(torch.eye(P)), torch.eye(P).double()),) * 2
    whole = read_between(taken, [], ends)
    assert torch.allclose(whole.past.sum(0), whole.history.targets[0], rtol=1e-5, atol=1e-8)
    assert bool(whole.history.targets[0, 16:].any())
    after = read_between(taken[3:], past, ends)
    assert relative(after.past.sum(0), after.history.targets[0]) < 2**-8


@settings(max_examples=15, deadline=None)
@example("Adam", 0, STEPS - 1)
@given(st.sampled_from(sorted(OPTIMIZERS)), st.integers(0, STEPS), st.integers(1, STEPS - 1))
def test_what_is_not_remembered_is_the_rest(name: str, steps: int, closed: int) -> None:
    """History = what is handed on + what rows that are no longer known left in the buffer."""
    _, taken = trained(OPTIMIZERS[name])
    every = handed([], taken)
    past = remember([], taken[:closed], steps, 2**30)
    assert [one.number for one in past] == list(range(max(1, closed - steps + 1), closed + 1))
    gone = sum(one.rows.rows for one in taken[: closed - len(past)])
    found = handed(past, taken[closed:])
    assert len(found) == len(every) - gone
    assert torch.allclose(found, every[gone:], rtol=2**-8, atol=0), "rows in half precision, each within their rounding"
    rest = history(taken[-1]) - every[gone:].sum(0)
    assert torch.allclose(rest, every[:gone].sum(0), rtol=1e-7, atol=1e-9 * float(every.abs().max()))


def test_remembered_rows_are_in_half_precision_and_the_last_that_fit() -> None:
    _, taken = trained(OPTIMIZERS["AdamW with decay"])
    sizes = [one.rows.rows * P * 2 for one in taken]
    kept = remember([], taken, 4, 2**30)
    assert [one.number for one in kept] == [3, 4, 5, 6]
    assert [one.rows.matrix.dtype for one in kept] == [torch.bfloat16] * 4
    assert [one.rows.nbytes for one in kept] == sizes[2:]
    assert torch.equal(kept[-1].rows.dense(0, P), taken[-1].rows.matrix.bfloat16().float())
    assert remember([], taken, 0, 2**30) == []
    for count in range(STEPS + 1):
        fits = sum(sizes[STEPS - count :])
        assert [one.number for one in remember([], taken, 99, fits)] == list(range(STEPS - count + 1, STEPS + 1))
        if count:
            assert len(remember([], taken, 99, fits - 1)) == count - 1


def test_remembering_step_by_step_is_remembering_at_once() -> None:
    _, taken = trained(OPTIMIZERS["SGD dampening"])
    held: list[PastStep] = []
    for one in taken:
        held = remember(held, [one], 3, 2**30)
        assert len(held) <= 3
    at_once = remember([], taken, 3, 2**30)
    assert [one.number for one in held] == [one.number for one in at_once] == [4, 5, 6]
    for one, other in zip(held, at_once, strict=True):
        assert one.stops == other.stops
        assert [w for _, w in one.pieces] == pytest.approx([w for _, w in other.pieces], rel=1e-12)
        assert torch.equal(one.rows.matrix, other.rows.matrix), "rounded once, not again at every step"
