"""One step split among its rows on targets whose shift is known exactly."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_step_map import CASES, Case, built
from torch import Tensor

from smda_monitor.maths.adam import AdamStep
from smda_monitor.maths.split import StepSplit, on_targets, split_step
from smda_monitor.maths.step_map import StepMap, clip_factor

N, P, K = 5, 40, 3


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def example(t: int = 7) -> tuple[Tensor, AdamStep]:
    """(rows, a state with momentum and decay)."""
    rows = random(N, P, seed=1) * (1 + torch.arange(N)[:, None])
    theta, m, v = random(P, seed=2), random(P, seed=3), 3 * random(P, seed=4).square()
    return rows, AdamStep(theta, m, v, None, 1e-2, 0.9, 0.999, 1e-8, 0.1, decoupled=True, maximize=False, t=t)


def taken(rows: Tensor, state: StepMap, max_norm: float) -> Tensor:
    """The update that AdamW takes with `rows`."""
    total = rows.double().sum(0)
    return state.update(clip_factor(float(total.norm()), max_norm) * total)


def split(rows: Tensor, state: StepMap, max_norm: float) -> StepSplit:
    total = rows.double().sum(0)
    return split_step(rows, clip_factor(float(total.norm()), max_norm) * total, state, max_norm)


@pytest.mark.parametrize("max_norm", [0.0, 1e6, 0.5])
def test_the_parts_are_the_update(max_norm: float) -> None:
    rows, state = example()
    found = split(rows, state, max_norm)
    parts = (found.row_scale * rows).sum(0) + found.history + found.decay
    assert torch.allclose(parts, taken(rows, state, max_norm), rtol=1e-10, atol=1e-14)
    assert found.clip_factor == pytest.approx(clip_factor(float(rows.sum(0).norm()), max_norm), rel=1e-12)
    assert found.capture_error < 1e-14
    for i in range(N):
        rest = torch.cat([rows[:i], rows[i + 1 :]])
        expected = taken(rows, state, max_norm) - taken(rest, state, max_norm)
        assert torch.allclose(found.push[i], expected, rtol=1e-8, atol=1e-12)


def test_a_row_that_was_not_captured_is_seen_in_the_capture_error() -> None:
    rows, state = torch.zeros(2, P, dtype=torch.float64), example()[1]
    rows[0, 0], rows[1, 1] = 3.0, 4.0
    found = split_step(rows[:1], rows.sum(0), state, 0.0)
    assert found.clip_factor == pytest.approx(1.0)
    assert found.capture_error == pytest.approx(4 / 5)
    assert split(rows, state, 0.0).capture_error == 0


def test_a_step_without_gradient_is_refused() -> None:
    rows, state = example()
    with pytest.raises(ValueError, match="no gradient"):
        split_step(torch.zeros_like(rows), torch.zeros(P, dtype=torch.float64), state, 1.0)
    with pytest.raises(ValueError, match="no gradient"):
        split_step(rows, torch.zeros(P, dtype=torch.float64), state, 1.0)


@pytest.mark.parametrize("max_norm", [0.0, 0.5])
def test_quadratic_targets_balance_exactly(max_norm: float) -> None:
    """The trapezoid is exact for a quadratic, so nothing is left unexplained; one end alone is not."""
    rows, state = example()
    A, b = random(K, P, P, seed=5), random(K, P, seed=6)
    A = A + A.mT

    def value(theta: Tensor) -> Tensor:
        return torch.einsum("p,kpq,q->k", theta, A, theta) / 2 + b @ theta

    after_theta = state.theta + taken(rows, state, max_norm)
    before, after = A @ state.theta + b, A @ after_theta + b
    measured = value(after_theta) - value(state.theta)
    found = on_targets(split(rows, state, max_norm), rows, before, after)
    assert torch.allclose(found.shares.sum(0) + found.history + found.decay, measured, rtol=1e-9)
    one_end = on_targets(split(rows, state, max_norm), rows, before, before)
    error = (one_end.shares.sum(0) + one_end.history + one_end.decay - measured).abs() / measured.abs()
    assert float(error.max()) > 1e-3
    assert found.shares.shape == found.push.shape == (N, K)


def test_push_on_a_linear_target_is_the_target_without_the_row() -> None:
    rows, state = example()
    b = random(K, P, seed=6)
    found = on_targets(split(rows, state, 0.5), rows, b, b)
    whole = b @ taken(rows, state, 0.5)
    for i in range(N):
        without = b @ taken(torch.cat([rows[:i], rows[i + 1 :]]), state, 0.5)
        assert torch.allclose(found.push[i], whole - without, rtol=1e-8, atol=1e-11)
    assert not torch.allclose(found.push, found.shares, rtol=0.1), "two different questions"


def test_push_reads_the_end_of_the_step_and_the_share_its_middle() -> None:
    rows, state = example()
    before, after = random(K, P, seed=8), random(K, P, seed=9)
    both = on_targets(split(rows, state, 0.0), rows, before, after)
    other = on_targets(split(rows, state, 0.0), rows, random(K, P, seed=10), after)
    assert torch.equal(both.push, other.push)
    assert not torch.allclose(both.shares, other.shares)
    middle = on_targets(split(rows, state, 0.0), rows, (before + after) / 2, (before + after) / 2)
    assert torch.allclose(both.shares, middle.shares)
    assert torch.allclose(both.history, middle.history)


def test_rows_in_float32_are_split_in_float64() -> None:
    rows, state = example()
    found, exact = split(rows.float(), state, 0.5), split(rows.float().double(), state, 0.5)
    assert found.push.dtype == torch.float32
    assert found.history.dtype == torch.float64
    assert torch.allclose(found.push.double(), exact.push, rtol=1e-6, atol=1e-9)
    assert torch.equal(found.row_scale, exact.row_scale)


@settings(max_examples=40, deadline=None)
@given(CASES, st.integers(0, 10**6))
def test_laws(case: Case, seed: int) -> None:
    state, rows, max_norm = built(case)
    rows = rows + 1e-3 * random(*rows.shape, seed=seed)  # never a step without gradient
    p = rows.shape[1]
    before, after = random(K, p, seed=seed + 1), random(K, p, seed=seed + 2)
    found = on_targets(split(rows, state, max_norm), rows, before, after)
    close = {"rtol": 1e-7, "atol": 1e-10}
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    shuffled = on_targets(split(rows[order], state, max_norm), rows[order], before, after)
    assert torch.allclose(shuffled.shares, found.shares[order], **close)
    assert torch.allclose(shuffled.push, found.push[order], **close)

    more = torch.cat([rows, rows[:1], torch.zeros(1, p, dtype=torch.float64)])
    wide = on_targets(split(more, state, max_norm), more, before, after)
    assert torch.allclose(wide.shares[0], wide.shares[-2], **close)
    assert torch.allclose(wide.push[0], wide.push[-2], **close)
    assert not bool(wide.shares[-1].any())
    assert torch.allclose(wide.push[-1], torch.zeros(K, dtype=torch.float64), atol=1e-10)

    doubled = on_targets(split(rows, state, max_norm), rows, 2 * before, 2 * after)
    assert torch.allclose(doubled.shares, 2 * found.shares, **close)
    assert torch.allclose(doubled.push, 2 * found.push, **close)
    assert torch.allclose(doubled.history + doubled.decay, 2 * (found.history + found.decay), **close)
