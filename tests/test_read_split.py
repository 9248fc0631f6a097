"""Steps between two snapshots read on targets whose shift is known exactly; the steps are torch's own."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from taken import across, read_between, take_step
from test_past import OPTIMIZERS, Fixed, two
from test_step_map import Bench, bench_of, flat, gradients
from torch import Tensor

from smda_monitor.instruments.optimizer_step import read_step
from smda_monitor.maths.adam import AdamStep
from smda_monitor.maths.past import PastStep, remember
from smda_monitor.maths.probe_gradients import ChunkedRows, ProbeGradients
from smda_monitor.maths.read_split import End, EndReading, Read, SplitReading, read_end, read_pushes
from smda_monitor.maths.row_gradients import RowGradients
from smda_monitor.maths.split import SLAB, Directions, TakenStep, directions
from smda_monitor.maths.step_map import WholeStep, clip_factor
from smda_monitor.records.account import READINGS

P, K, C = 32, 3, 4
SINGLE = {"rtol": 1e-4, "atol": 1e-6}
"""Dots are taken in float32."""


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def end(on_targets: Tensor) -> End:
    """The end at which the targets' gradients are `on_targets` (K, p), each a column of its own."""
    return End(Fixed(on_targets.float()), torch.eye(len(on_targets), dtype=torch.float64))


def test_targets_are_weighted_sums_of_columns() -> None:
    columns, weights = random(2, C, seed=1), random(K, C, seed=2)
    found = Read.of(columns, weights)
    assert torch.equal(found.columns, columns)
    by_hand = [[sum(weights[k, c] * row[c] for c in range(C)) for k in range(K)] for row in columns]
    assert torch.allclose(found.targets, torch.tensor(by_hand, dtype=torch.float64), rtol=1e-12)


@dataclass(frozen=True)
class Taken:
    """Real steps, and the parameters before the first and after each."""

    steps: list[TakenStep]
    thetas: list[Tensor]
    without: list[Tensor]
    """By step: (n, p) the parameters after the step taken without each row."""


def take(steps: int, groups: object = None, max_norm: float = 0.0, warm: int = 2, drift: float = 2.0) -> Taken:
    """`steps` steps after `warm` ones, so that there is momentum; rows have a part in common, as training's have."""
    kind, first, second = groups or OPTIMIZERS["AdamW with decay"]  # type: ignore[misc]
    mine = bench_of(torch.float64, kind, first, second)
    common = drift * gradients(99, n=1)
    taken, thetas, without = [], [flat(mine.weights)], []
    for t in range(1, warm + steps + 1):
        rows = gradients(t) + common
        left_out = torch.stack([after(mine, torch.cat([rows[:i], rows[i + 1 :]]), max_norm) for i in range(len(rows))])
        clipped = mine.clipped(rows, max_norm)
        taken.append(take_step(t, read_step(mine.optimizer, mine.parameters), rows, clipped, max_norm))
        mine.step()
        thetas.append(flat(mine.weights))
        without.append(left_out)
    return Taken(taken[warm:], thetas[warm:], without[warm:])


def after(mine: Bench, rows: Tensor, max_norm: float) -> Tensor:
    """The parameters that a twin of `mine` reaches with `rows`."""
    twin = copy.deepcopy(mine)
    twin.clipped(rows, max_norm)
    twin.step()
    return flat(twin.weights)


def explained(found: SplitReading) -> Tensor:
    return found.shares.targets.sum(0) + found.history.targets[0] + found.decay.targets[0]


A, b = random(K, P, P, seed=5) / 4, random(K, P, seed=6)
A = A + A.mT


def value(theta: Tensor) -> Tensor:
    """K quadratics."""
    return torch.einsum("p,kpq,q->k", theta, A, theta) / 2 + b @ theta


def gradient(theta: Tensor) -> Tensor:
    return A @ theta + b


def whole(one: TakenStep) -> Directions:
    """All its directions."""
    found = [directions(one.gradient, part, start, stop) for _, start, stop, part in one.step.slabs(P)]
    names = ("shares", "push", "history", "decay", "momentum_scale")
    return Directions(*(torch.cat([getattr(f, name) for f in found], dim=-1) for name in names))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_pushes_alone_are_those_of_the_whole_reading_at_the_steps_end(name: str) -> None:
    run = take(1, OPTIMIZERS[name], max_norm=0.5)
    found = read_pushes(run.steps[0], Fixed(b.float()), K)
    truth = (run.thetas[-1] - run.without[-1]) @ b.T
    assert torch.allclose(found, truth, rtol=1e-4, atol=1e-5 * float(truth.abs().max()))
    assert torch.allclose(found, read_between(run.steps, [], (end(A[0, :K]), end(b))).push.targets, **SINGLE)


# shares


@pytest.mark.parametrize("max_norm", [0.0, 0.5])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_quadratic_balances_exactly_over_one_step(name: str, max_norm: float) -> None:
    """The trapezoid is exact for a quadratic, so nothing is left unexplained; one end alone is not."""
    run = take(1, OPTIMIZERS[name], max_norm)
    before, later = run.thetas
    measured = value(later) - value(before)
    found = read_between(run.steps, [], (end(gradient(before)), end(gradient(later))))
    assert torch.allclose(explained(found), measured, **SINGLE)
    one_end = read_between(run.steps, [], (end(gradient(before)), end(gradient(before))))
    assert float(((explained(one_end) - measured) / measured).abs().max()) > 1e-3
    n = run.steps[0].rows.rows
    assert found.shares.targets.shape == found.push.targets.shape == (n, K)
    assert found.history.targets.shape == found.decay.targets.shape == (1, K)
    assert found.shares.columns.shape == (n, K)


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_linear_target_balances_exactly_over_any_steps(name: str, steps: int) -> None:
    run = take(steps, OPTIMIZERS[name], max_norm=0.5)
    found = read_between(run.steps, [], (end(b), end(b)))
    assert torch.allclose(explained(found), b @ (run.thetas[-1] - run.thetas[0]), **SINGLE)
    assert len(found.shares.targets) == sum(one.rows.rows for one in run.steps)
    # Row by row and step by step: each share is that of its own step.
    apart = [read_between([one], [], (end(b), end(b))) for one in run.steps]
    for kind in ("shares", "push"):
        expected = torch.cat([getattr(one, kind).targets for one in apart])
        assert torch.allclose(getattr(found, kind).targets, expected, **SINGLE)
    for kind in ("history", "decay"):
        expected = torch.cat([getattr(one, kind).targets for one in apart]).sum(0, keepdim=True)
        assert torch.allclose(getattr(found, kind).targets, expected, **SINGLE)


@pytest.mark.parametrize("name", ["AdamW with decay", "SGD momentum"])
@pytest.mark.parametrize("steps", [3, 8])
def test_over_several_steps_a_quadratic_balances_much_better_than_from_one_end(name: str, steps: int) -> None:
    run = take(steps, OPTIMIZERS[name])
    before, later = run.thetas[0], run.thetas[-1]
    measured = value(later) - value(before)

    def error(*ends: Tensor) -> float:
        found = explained(read_between(run.steps, [], (end(gradient(ends[0])), end(gradient(ends[1])))))
        return float((found - measured).abs().sum() / measured.abs().sum())

    between, first, last = error(before, later), error(before, before), error(later, later)
    assert between < 0.2 * min(first, last)
    assert min(first, last) > 0.01


def test_a_gradient_that_goes_linearly_from_step_to_step_is_read_exactly() -> None:
    """Each share at the middle of its step, each push at its end, by hand."""
    run, start, stop = take(4), random(K, P, seed=8), random(K, P, seed=9)
    found = read_between(run.steps, [], (end(start), end(stop)))
    row = 0
    history, decay = torch.zeros(2, K, dtype=torch.float64)
    for j, one in enumerate(run.steps):
        middle, late = (torch.lerp(start, stop, alpha) for alpha in ((j + 0.5) / 4, (j + 1) / 4))
        here, parts = slice(row, row + one.rows.rows), whole(one)
        assert torch.allclose(found.shares.targets[here], parts.shares @ middle.T, **SINGLE)
        assert torch.allclose(found.push.targets[here], parts.push @ late.T, **SINGLE)
        history, decay = history + middle @ parts.history, decay + middle @ parts.decay
        row += one.rows.rows
    assert torch.allclose(found.history.targets[0], history, **SINGLE)
    assert torch.allclose(found.decay.targets[0], decay, **SINGLE)
    assert bool(decay.any())


# push


@pytest.mark.parametrize("max_norm", [0.0, 1e6, 0.5], ids=["no clipping", "idle", "biting"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_push_on_a_linear_target_is_the_target_without_the_row(name: str, max_norm: float) -> None:
    run = take(2, OPTIMIZERS[name], max_norm)
    found = read_between(run.steps, [], (end(b), end(b)))
    expected = torch.cat(
        [(later - left_out) @ b.T for later, left_out in zip(run.thetas[1:], run.without, strict=True)]
    )
    assert torch.allclose(found.push.targets, expected, **SINGLE)
    two_questions = not name.startswith("SGD") or max_norm == 0.5
    same = torch.allclose(found.push.targets, found.shares.targets, **SINGLE)
    assert same != two_questions, "they are one where the step is linear in the gradient, and there alone"


def test_push_reads_the_end_of_the_step_and_the_share_its_middle() -> None:
    run, start, stop = take(1), random(K, P, seed=8), random(K, P, seed=9)
    both = read_between(run.steps, [], (end(start), end(stop)))
    other = read_between(run.steps, [], (end(random(K, P, seed=10)), end(stop)))
    assert torch.equal(both.push.targets, other.push.targets)
    assert not torch.allclose(both.shares.targets, other.shares.targets)
    middle = read_between(run.steps, [], (end((start + stop) / 2), end((start + stop) / 2)))
    assert torch.allclose(both.shares.targets, middle.shares.targets, **SINGLE)
    assert torch.allclose(both.history.targets, middle.history.targets, **SINGLE)


def test_own_push_by_hand() -> None:
    """Every row on its own prompt's gradient, in the order in which prompts were read; NaN where there is none."""
    run = take(2)
    pushes = torch.cat([whole(one).push for one in run.steps])
    read = [5, 0, 6]
    own = random(len(read), P, seed=11)
    found = read_between(run.steps, [], (end(b), end(b)), Fixed(own.float()), read).own
    assert found.shape == (8,)
    for place, row in enumerate(read):
        assert float(found[row]) == pytest.approx(float(pushes[row] @ own[place]), rel=1e-4)
    assert found.isnan().tolist() == [row not in read for row in range(8)]
    assert float(found[5]) != pytest.approx(float(pushes[5] @ own[1]), rel=0.1), "each on its own"
    assert bool(read_between(run.steps, [], (end(b), end(b))).own.isnan().all())


# columns


@pytest.mark.parametrize("steps", [1, 3])
def test_columns_and_targets_agree_through_the_weights(steps: int) -> None:
    run = take(steps)
    columns = random(2, C, P, seed=12).float()
    weights = random(2, K, C, seed=13)
    same = read_between(run.steps, [], (End(Fixed(columns[0]), weights[0]), End(Fixed(columns[1]), weights[0])))
    for kind in ("shares", "push", "history", "decay"):
        read = getattr(same, kind)
        assert torch.allclose(read.targets, read.columns @ weights[0].T, rtol=1e-10), kind
    # Weights that differ, as where y is a log-probability: the target's gradient at each end is made of what is there.
    ends = (End(Fixed(columns[0]), weights[0]), End(Fixed(columns[1]), weights[1]))
    apart = read_between(run.steps, take_past(), ends)
    made = read_between(
        run.steps, take_past(), (end(weights[0] @ columns[0].double()), end(weights[1] @ columns[1].double()))
    )
    for kind in ("shares", "push", "history", "decay"):
        assert torch.allclose(getattr(apart, kind).targets, getattr(made, kind).targets, **SINGLE), kind
    assert torch.allclose(apart.past, made.past, **SINGLE)
    for kind in ("shares", "history", "decay"):
        assert not torch.allclose(getattr(apart, kind).targets, getattr(same, kind).targets, rtol=0.1), kind
    # The columns' own figures do not know of weights.
    for kind in ("shares", "push", "history", "decay"):
        assert torch.equal(getattr(apart, kind).columns, getattr(same, kind).columns)


def take_past() -> list[PastStep]:
    """A step that is remembered, with rows and weights of any kind."""
    return [PastStep(1, RowGradients.of(random(3, P, seed=14)), ((20, 0.3), (P, -0.2)))]


def test_rows_can_be_taken_out_of_a_reading() -> None:
    found = read_between(take(2).steps, [], (end(b), end(b))).shares
    assert torch.equal(found.part(slice(4, 7)).targets, found.targets[4:7])
    assert torch.equal(found.part(slice(4, 7)).columns, found.columns[4:7])


# history handed on


def remembered(groups: str, steps: int, keep: int) -> tuple[Taken, list[PastStep]]:
    """The last `steps` of some steps, and those before as they are remembered."""
    run = take(5 + steps, OPTIMIZERS[groups], warm=0)
    past = remember([], run.steps[:5], keep, 2**30)
    return Taken(run.steps[5:], run.thetas[5:], run.without[5:]), past


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_handed_on_and_rest_are_history(name: str, steps: int) -> None:
    """While every earlier row is known, nothing of history is left over; where some are not, exactly theirs is."""
    start, stop = random(K, P, seed=8), random(K, P, seed=9)
    run, past = remembered(name, steps, 5)
    found = read_between(run.steps, past, (end(start), end(stop)))
    assert len(found.past) == sum(one.rows.rows for one in [*past, *run.steps[:-1]])
    scale = found.past.abs().sum(0)
    assert float(((found.past.sum(0) - found.history.targets[0]) / scale).abs().max()) < 2**-9, "half precision"
    assert float(found.history.targets.abs().max()) > 1e-3
    _, few = remembered(name, steps, 2)
    less = read_between(run.steps, few, (end(start), end(stop)))
    gone = sum(one.rows.rows for one in past[:3])
    assert torch.allclose(less.past, found.past[gone:], **SINGLE), "what a row is handed does not depend on the others"
    assert torch.equal(less.history.targets, found.history.targets), "nor does the whole of history on who is known"
    rest = less.history.targets[0] - less.past.sum(0)
    assert torch.allclose(rest, found.past[:gone].sum(0), rtol=1e-3, atol=float(2**-9 * scale.max()))
    assert float(rest.abs().max()) > float(2**-9 * scale.max()), "and that is seen"


def test_each_earlier_row_is_handed_its_part_of_every_step() -> None:
    """By hand, over two steps: a row of the first is in the second's momentum alone."""
    run, past = remembered("AdamW, two betas", 2, 2)
    start, stop = random(K, P, seed=8), random(K, P, seed=9)
    found = read_between(run.steps, past, (end(start), end(stop)))
    expected = []
    first, second = run.steps
    pulls = [whole(one).momentum_scale * torch.lerp(start, stop, (j + 0.5) / 2) for j, one in enumerate(run.steps)]
    edges = [0, *(edge for edge, _ in first.step.parts)]
    for one in past:
        for row in one.rows.dense(0, P).double():
            total = torch.zeros(K, dtype=torch.float64)
            for part, (_, weight) in enumerate(one.pieces):
                a, z = edges[part], edges[part + 1]
                retained = first.step.parts[part][1].retained
                total += pulls[0][:, a:z] @ (weight * row[a:z]) + pulls[1][:, a:z] @ (retained * weight * row[a:z])
            expected.append(total)
    for row in first.rows.dense(0, P).double():
        total = torch.zeros(K, dtype=torch.float64)
        for part in range(len(first.step.parts)):
            a, z = edges[part], edges[part + 1]
            total += pulls[1][:, a:z] @ (first.step.parts[part][1].kept * first.gradient.clip_factor * row[a:z])
        expected.append(total)
    assert torch.allclose(found.past, torch.stack(expected), **SINGLE)
    assert second.rows.rows not in (0, len(found.past)), "the last step's own rows are handed nothing"


def test_without_momentum_or_an_earlier_step_nothing_is_handed_on() -> None:
    found = read_between(take(1).steps, [], (end(b), end(b)))
    assert found.past.shape == (0, K)
    assert bool(found.history.targets.any()), "it stays history"
    plain = read_between(take(3, two(torch.optim.SGD)).steps, [], (end(b), end(b)))
    assert plain.past.shape == (8, K)
    assert not bool(plain.past.any())
    assert not bool(plain.history.targets.any())


# laws


def made(rows: Tensor, seed: int) -> TakenStep:
    """A step of AdamW from a random state, clipped."""
    theta, m, v = random(P, seed=seed), random(P, seed=seed + 1), random(P, seed=seed + 2).square()
    state = AdamStep(theta, m, v, None, 1e-2, 0.9, 0.999, 1e-8, 0.1, decoupled=True, maximize=False, t=5)
    total = rows.sum(0)
    clipped = clip_factor(float(total.norm()), 0.5) * total
    return take_step(5, WholeStep(((P, state),)), rows, clipped, 0.5)


PARTITIONS = st.lists(st.integers(0, 3), min_size=8, max_size=8)
"""The group of each of eight rows."""


@settings(max_examples=20, deadline=None)
@given(PARTITIONS, st.integers(0, 1000))
def test_the_same_rows_in_any_grouping_give_the_same_figures(groups: list[int], seed: int) -> None:
    """Micro-batches of a step and chunks of a probe pass are groupings alone: each row's figures are its own."""
    rows, own = random(8, P, seed=seed), random(8, P, seed=seed + 1).float()
    micro = [[i for i in range(8) if groups[i] == g] for g in sorted(set(groups))]
    order = [i for batch in micro for i in batch]
    ends = (end(random(K, P, seed=seed + 2)), end(random(K, P, seed=seed + 3)))
    at_once = read_between([made(rows, seed)], [], ends, Fixed(own), range(8))
    chunks = ChunkedRows(tuple((tuple(batch), RowGradients.of(own[batch])) for batch in micro))
    assert torch.equal(chunks.dense(3, 20), own[:, 3:20])
    arrived = torch.cat([rows[batch] for batch in micro])
    # Own prompts are numbered by the rows as they arrived.
    found = read_between([made(arrived, seed)], [], ends, chunks, [order.index(i) for i in range(8)])
    for kind in ("shares", "push"):
        assert torch.allclose(getattr(found, kind).targets, getattr(at_once, kind).targets[order], **SINGLE), kind
    assert torch.allclose(found.own, at_once.own[order], **SINGLE)
    for kind in ("history", "decay"):
        assert torch.allclose(getattr(found, kind).targets, getattr(at_once, kind).targets, **SINGLE), kind


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 1000))
def test_processes_that_share_probes_and_own_prompts_find_the_whole(m: int, count: int, seed: int) -> None:
    """More processes than probes too: some measure none then."""
    rows, own = random(8, P, seed=seed), random(8, P, seed=seed + 1).float()
    parts, readings = random(m, P, seed=seed + 2).float(), random(3, m, P, seed=seed + 3).float()
    weights, step = random(K, 1 + 3 * m, seed=seed + 4), made(rows, seed)

    def measured(numbers: Sequence[int]) -> ProbeGradients:
        if not numbers:
            return ProbeGradients.nothing(m)
        here = [(tuple(range(len(numbers))), RowGradients.of(of[list(numbers)])) for of in (parts, *readings)]
        S_X, *by_name = (ChunkedRows((chunk,)) for chunk in here)
        found = ProbeGradients(S_X, dict(zip(READINGS, by_name, strict=True)), len(numbers))
        return found.among(numbers, m)

    def read(probes: Sequence[int], rows_of: Sequence[int]) -> EndReading:
        chunks = ChunkedRows(((tuple(range(len(rows_of))), RowGradients.of(own[list(rows_of)])),) if rows_of else ())
        return read_end([step], [], End(measured(probes), weights), True, chunks if rows_of else None, rows_of)

    alone = read(range(m), range(7))
    shares = [read(range(m)[i::count], range(7)[i::count]) for i in range(count)]
    together = EndReading.whole(shares)
    assert torch.allclose(together.dots, alone.dots, **SINGLE)
    assert torch.equal(together.own[:7], alone.own[:7])
    assert bool(together.own[7].isnan())
    assert bool(alone.dots.any(0).all()), "every column was read"


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.floats(0.1, 10))
def test_laws(seed: int, by: float) -> None:
    rows, start, stop = random(4, P, seed=seed), random(K, P, seed=seed + 3), random(K, P, seed=seed + 4)
    found = read_between([made(rows, seed)], [], (end(start), end(stop)))
    wide = torch.cat([rows, rows[:1], torch.zeros(1, P, dtype=torch.float64)])
    more = read_between([made(wide, seed)], [], (end(start), end(stop)))
    scaled = read_between([made(rows, seed)], [], (end(by * start), end(by * stop)))
    for kind in ("shares", "push"):
        read, twice, larger = (getattr(one, kind).targets for one in (found, more, scaled))
        assert torch.allclose(twice[0], twice[-2], **SINGLE), "symmetry"
        assert torch.allclose(twice[-1], torch.zeros(K, dtype=torch.float64), atol=1e-9), "dummy"
        assert torch.allclose(larger, by * read, rtol=1e-4, atol=1e-5), "linear in the target"
    assert torch.allclose(scaled.history.targets, by * found.history.targets, rtol=1e-4, atol=1e-5)


def test_ranges_are_read_to_the_end() -> None:
    """A vector longer than a range, in two parts, with rows that are remembered."""
    p, cut = SLAB + 1000, 700
    theta, m, v = random(p, seed=1), random(p, seed=2), random(p, seed=3).square()
    whole_step = AdamStep(theta, m, v, None, 1e-2, 0.9, 0.999, 1e-8, 0.1, decoupled=True, maximize=False, t=5)
    step = WholeStep(((cut, replace(whole_step.cut(0, cut), lr=3e-3)), (p, whole_step.cut(cut, p))))
    rows, earlier, on_targets = random(3, p, seed=4), random(2, p, seed=5), random(K, p, seed=6)
    one = take_step(5, step, rows, rows.sum(0), 0.0)
    past = [PastStep(4, RowGradients.of(earlier), ((cut, 0.1), (p, 0.2)))]
    found = read_between([one], past, (end(on_targets), end(on_targets)), Fixed(rows[2:].float()), [2])
    close = {"rtol": 1e-4, "atol": 1e-3}
    assert torch.allclose(explained(found), on_targets @ across(step, "update", rows.sum(0)), **close)
    pieces = [directions(one.gradient, part, a, z) for _, a, z, part in step.slabs(p)]
    push = torch.cat([piece.push for piece in pieces], dim=1)
    assert torch.allclose(found.push.targets, push @ on_targets.T, **close)
    assert float(found.own[2]) == pytest.approx(float(push[2] @ rows[2]), rel=1e-4)
    scale = torch.cat([piece.momentum_scale for piece in pieces])
    weights = torch.cat([torch.full((cut,), 0.1), torch.full((p - cut,), 0.2)]).double()
    assert torch.allclose(found.past, (earlier * weights * scale) @ on_targets.T, **close)
