"""One step split among its rows in parameter space, against steps that were really taken."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from taken import across, take_step
from test_step_map import CASES, OPTIMIZERS, Case, bench, built, gradients, relative
from torch import Tensor

from smda_monitor.instruments.optimizer_step import read_step
from smda_monitor.maths.adam import AdamStep
from smda_monitor.maths.split import SLAB, Directions, TakenStep, directions
from smda_monitor.maths.step_map import StepMap, WholeStep, clip_factor

N, P = 5, 40
CLIPPING = pytest.mark.parametrize("max_norm", [0.0, 1e6, 0.5], ids=["no clipping", "idle", "biting"])


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def whole(*parts: StepMap, stops: Iterable[int]) -> WholeStep:
    return WholeStep(tuple(zip(stops, parts, strict=True)))


def example(t: int = 7, p: int = P) -> tuple[Tensor, WholeStep]:
    """(rows, a step in two parts with momentum and decay)."""
    rows = random(N, p, seed=1) * (1 + torch.arange(N)[:, None])
    theta, m, v = random(p, seed=2), random(p, seed=3), 3 * random(p, seed=4).square()
    cut = p // 3
    parts = [
        AdamStep(theta[h], m[h], v[h], None, lr, 0.9, 0.999, 1e-8, 0.1, decoupled=True, maximize=False, t=t)
        for h, lr in ((slice(0, cut), 1e-2), (slice(cut, p), 3e-3))
    ]
    return rows, whole(*parts, stops=(cut, p))


def taken(rows: Tensor, step: WholeStep, max_norm: float) -> TakenStep:
    """The step that the optimizer takes with `rows`."""
    total = rows.double().sum(0)
    clipped = clip_factor(float(total.norm()), max_norm) * total
    return take_step(7, step, rows, clipped, max_norm)


def update(rows: Tensor, step: WholeStep, max_norm: float) -> Tensor:
    total = rows.double().sum(0)
    return across(step, "update", clip_factor(float(total.norm()), max_norm) * total)


def joined(one: TakenStep, longest: int = SLAB) -> Directions:
    """All directions, formed from ranges of `longest` elements at most."""
    found = [directions(one.gradient, part, start, stop) for _, start, stop, part in one.step.slabs(longest)]
    names = ("shares", "push", "history", "decay", "momentum_scale")
    return Directions(*(torch.cat([getattr(f, name) for f in found], dim=-1) for name in names))


@CLIPPING
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_parts_are_the_update_of_torchs_optimizer(name: str, max_norm: float) -> None:
    mine = bench(torch.float64, name)
    for t in range(1, 4):
        rows = gradients(t)
        clipped = mine.clipped(rows, max_norm)
        one = take_step(t, read_step(mine.optimizer, mine.parameters), rows, clipped, max_norm)
        found, moved = joined(one), mine.step()
        assert relative(found.shares.sum(0) + found.history + found.decay, moved) < 1e-11
        assert relative(found.shares.sum(0), moved) > 1e-4, "history and decay are needed"
        assert one.number == t
        assert one.gradient.clip_factor == pytest.approx(clip_factor(float(rows.sum(0).norm()), max_norm), rel=1e-12)
        assert (one.gradient.clip_factor < 1) == (max_norm == 0.5)
        assert one.gradient.capture_error < 1e-7
        assert one.gradient.scaled == pytest.approx(1.0, rel=1e-6)


@CLIPPING
def test_what_else_scales_the_gradient_is_seen(max_norm: float) -> None:
    rows, step = example()
    one = taken(rows, step, max_norm)
    half = take_step(1, step, rows, 0.5 * one.gradient.clipped, max_norm)
    assert half.gradient.scaled == pytest.approx(0.5, rel=1e-6)
    assert half.gradient.capture_error < 1e-7, "else it would be seen there"


@CLIPPING
def test_push_is_the_difference_of_two_taken_steps(max_norm: float) -> None:
    rows, step = example()
    one = taken(rows, step, max_norm)
    found = joined(one)
    for i in range(N):
        rest = torch.cat([rows[:i], rows[i + 1 :]])
        other = joined(taken(rest, step, max_norm))
        without = other.shares.sum(0) + other.history + other.decay
        expected = found.shares.sum(0) + found.history + found.decay - without
        assert torch.allclose(found.push[i], expected, rtol=1e-8, atol=1e-12)
        assert torch.allclose(found.push[i], update(rows, step, max_norm) - update(rest, step, max_norm), rtol=1e-8)
        assert float(one.gradient.without[i]) == pytest.approx(
            clip_factor(float(rest.sum(0).norm()), max_norm), rel=1e-9
        )
        assert float(one.gradient.norms[i]) == pytest.approx(float(rows[i].norm()), rel=1e-12)
        assert relative(found.push[i], found.shares[i]) > 0.03, "two different questions"
    assert bool((one.gradient.without != one.gradient.clip_factor).any()) == (max_norm == 0.5)


def test_shares_add_up_where_rounding_stands_between_rows_and_gradient() -> None:
    """As in bf16, where two rows nearly cancel: what is left over goes to the rows by size, and only there."""
    rows, step = example()
    rows[1] = -rows[0] * (1 - 1e-4)
    rows[:, :4] = 0
    rounded = (rows.sum(0) + 1e-3 * rows.abs().sum(0) * random(P, seed=9)).float().double()
    one = take_step(7, step, rows, rounded, 0.0)
    found, moved = joined(one), across(step, "update", rounded)
    assert one.gradient.capture_error > 1e-3, "else there is nothing to close"
    assert torch.allclose(found.shares.sum(0) + found.history + found.decay, moved, rtol=1e-9, atol=1e-15)
    open_shares = across(step, "share_scale", rounded) * one.gradient.clip_factor * rows
    assert relative(open_shares.sum(0) + found.history + found.decay, moved) > 1e-4
    assert bool(((found.shares - open_shares).abs() <= 3e-2 * open_shares.abs() + 1e-15).all()), "no row by much"
    assert not bool(found.shares[:, :4].any()), "no row's where no row has a gradient"


def test_a_row_that_was_not_captured_is_seen_in_the_capture_error() -> None:
    rows, step = torch.zeros(2, P, dtype=torch.float64), example()[1]
    rows[0, 0], rows[1, 1] = 3.0, 4.0
    found = take_step(1, step, rows[:1], rows.sum(0), 0.0)
    assert found.gradient.clip_factor == pytest.approx(1.0)
    assert found.gradient.capture_error == pytest.approx(4 / 5)
    assert taken(rows, step, 0.0).gradient.capture_error < 1e-7


def test_a_step_without_gradient_is_momentum_and_decay_alone() -> None:
    rows, step = example()
    one = taken(torch.zeros_like(rows), step, 1.0)
    assert (one.gradient.clip_factor, one.gradient.capture_error) == (1.0, 0.0)
    assert one.gradient.without.tolist() == [1.0] * N
    found = joined(one)
    assert not bool(found.shares.any())
    assert not bool(found.push.any())
    moved = update(torch.zeros_like(rows), step, 1.0)
    assert torch.allclose(found.history + found.decay, moved, rtol=1e-12, atol=0)
    assert float(moved.norm()) > 1e-3, "and they do move something"


def test_a_gradient_of_one_side_alone_is_seen_in_the_capture_error() -> None:
    """Rows without the optimizer's gradient, or the optimizer's without any row, are nothing that was captured."""
    rows, step = example()
    none = torch.zeros(P, dtype=torch.float64)
    assert take_step(1, step, rows, none, 1.0).gradient.capture_error == 1.0
    assert take_step(1, step, torch.zeros_like(rows), rows.sum(0), 1.0).gradient.capture_error == 1.0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_has_no_capture_error(bad: float) -> None:
    rows, step = example()
    broken = rows.clone()
    broken[1, 2] = bad
    assert math.isnan(take_step(1, step, broken, rows.sum(0), 1.0).gradient.capture_error)
    assert math.isnan(take_step(1, step, rows, broken.sum(0), 1.0).gradient.capture_error)


def test_rows_in_float32_are_split_in_float64() -> None:
    rows, step = example()
    one, exact = taken(rows.float(), step, 0.5), taken(rows.float().double(), step, 0.5)
    assert one.rows.dense(0, P).dtype == torch.float32
    found, expected = joined(one), joined(exact)
    for name in ("shares", "push", "history", "decay", "momentum_scale"):
        assert getattr(found, name).dtype == torch.float64
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    assert (one.gradient.clip_factor, one.gradient.capture_error) == (
        exact.gradient.clip_factor,
        exact.gradient.capture_error,
    )


@pytest.mark.parametrize("longest", [1, 7, 13, P])
def test_ranges_do_not_matter(longest: int) -> None:
    rows, step = example()
    one = taken(rows, step, 0.5)
    pieces, at_once = joined(one, longest), joined(one)
    for name in ("shares", "push", "history", "decay", "momentum_scale"):
        assert torch.allclose(getattr(pieces, name), getattr(at_once, name), rtol=1e-12, atol=0), name


def test_a_vector_longer_than_a_range() -> None:
    """What is summed over ranges is summed over all of them."""
    p = SLAB + 1000
    rows, step = example(p=p)
    one = taken(rows.float(), step, 0.5)
    total = rows.float().double().sum(0)
    rest = torch.stack([total - row for row in rows.float().double()]).norm(dim=1)
    assert one.gradient.clip_factor == pytest.approx(0.5 / (float(total.norm()) + 1e-6), rel=1e-9)
    assert one.gradient.norms.tolist() == pytest.approx(rows.float().double().norm(dim=1).tolist(), rel=1e-9)
    assert one.gradient.without.tolist() == pytest.approx((0.5 / (rest + 1e-6)).tolist(), rel=1e-9)
    assert one.gradient.capture_error < 1e-7
    found = joined(one)
    assert found.push.shape == (N, p)
    assert relative(found.shares.sum(0) + found.history + found.decay, update(rows.float(), step, 0.5)) < 1e-12


@settings(max_examples=40, deadline=None)
@given(CASES, st.integers(0, 10**6), st.integers(1, 8), st.floats(0.1, 10))
def test_laws(case: Case, seed: int, longest: int, by: float) -> None:
    step, rows, max_norm = built(case)
    rows = rows + 1e-3 * random(*rows.shape, seed=seed)  # never a step without gradient
    found = joined(taken(rows, step, max_norm), longest)
    close = {"rtol": 1e-7, "atol": 1e-10}
    # Sum: nothing of the update is lost.
    moved = found.shares.sum(0) + found.history + found.decay
    assert torch.allclose(moved, update(rows, step, max_norm), **close)
    # Order.
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    shuffled = joined(taken(rows[order], step, max_norm), longest)
    assert torch.allclose(shuffled.shares, found.shares[order], **close)
    assert torch.allclose(shuffled.push, found.push[order], **close)
    # Symmetry and dummy: a row that stands twice gets the same twice, one without gradient nothing.
    p = rows.shape[1]
    wide = joined(taken(torch.cat([rows, rows[:1], torch.zeros(1, p, dtype=torch.float64)]), step, max_norm), longest)
    assert torch.allclose(wide.shares[0], wide.shares[-2], **close)
    assert torch.allclose(wide.push[0], wide.push[-2], **close)
    assert not bool(wide.shares[-1].any())
    assert torch.allclose(wide.push[-1], torch.zeros(p, dtype=torch.float64), atol=1e-9)
    idle = joined(taken(torch.cat([rows, torch.zeros(1, p, dtype=torch.float64)]), step, max_norm), longest)
    assert torch.allclose(idle.shares[:-1], found.shares, **close), "and changes nothing for the others"
    assert torch.allclose(idle.push[:-1], found.push, **close)
    # Scale: a learning rate `by` times as large makes every part so.
    quick = WholeStep(tuple((stop, replace(part, lr=part.lr * by)) for stop, part in step.parts))  # type: ignore[type-var, attr-defined]
    fast = joined(taken(rows, quick, max_norm), longest)
    for name in ("shares", "push", "history", "decay", "momentum_scale"):
        assert torch.allclose(getattr(fast, name), by * getattr(found, name), rtol=1e-6, atol=1e-9), name
