"""The gradient of a step without one row: against torch's own clipping of the other rows."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from smda_monitor.maths.row_gradients import RowGradients
from smda_monitor.maths.split import step_gradient


def clipped_by_torch(total: Tensor, max_norm: float) -> Tensor:
    parameter = nn.Parameter(torch.zeros_like(total))
    parameter.grad = total.clone()
    if max_norm > 0:
        torch.nn.utils.clip_grad_norm_([parameter], max_norm)
    assert parameter.grad is not None
    return parameter.grad


@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.3, 2.0, 1e6]), st.integers(1, 5))
@settings(max_examples=20, deadline=None)
def test_it_is_what_torch_clips_from_the_other_rows(seed: int, max_norm: float, n: int) -> None:
    rows = torch.randn(n, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    gradient = step_gradient(RowGradients.of(rows), clipped_by_torch(rows.sum(0), max_norm), max_norm)
    assert gradient.capture_error < 1e-7
    unclipped = step_gradient(RowGradients.of(rows), rows.sum(0), 0.0)
    for i, row in enumerate(rows):
        expected = clipped_by_torch(rows.sum(0) - row, max_norm)
        assert torch.allclose(gradient.left_out(i), expected, atol=1e-7)
        others = torch.cat([rows[:i], rows[i + 1 :]]).sum(0)
        assert torch.allclose(unclipped.left_out(i), others, atol=1e-9)


def test_what_the_capture_misses_stays_with_the_step() -> None:
    rows = torch.randn(3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    missed = torch.tensor([0.1, 0.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    missed -= rows.sum(0) * (missed @ rows.sum(0)) / rows.sum(0).square().sum()  # no part of it along the rows
    gradient = step_gradient(RowGradients.of(rows), rows.sum(0) + missed, 0.0)
    assert gradient.clip_factor == pytest.approx(1.0)
    assert gradient.capture_error == pytest.approx(float(missed.norm() / (rows.sum(0) + missed).norm()))
    torch.testing.assert_close(gradient.left_out(1), rows[0] + rows[2] + missed)


def test_a_step_without_any_gradient_leaves_nothing_out() -> None:
    nothing = torch.zeros(2, 3, dtype=torch.float64)
    gradient = step_gradient(RowGradients.of(nothing), nothing[0], 1.0)
    assert (gradient.clip_factor, gradient.capture_error) == (1.0, 0.0)
    assert not bool(gradient.left_out(0).any())


@pytest.mark.parametrize(
    ("rows", "clipped"),
    [
        ([[0.0, 0.0]], [1.0, 0.0]),
        ([[1.0, 0.0]], [0.0, 0.0]),
        ([[1.0, 0.0]], [0.0, 1.0]),
        ([[1.0, 0.0]], [float("nan"), 1.0]),
        ([[1.0, 0.0]], [float("inf"), 1.0]),
        ([[float("inf"), 0.0]], [1.0, 1.0]),
    ],
)
def test_a_gradient_that_is_not_the_rows_is_seen(rows: list[list[float]], clipped: list[float]) -> None:
    made, seen = (torch.tensor(t, dtype=torch.float64) for t in (rows, clipped))
    assert not step_gradient(RowGradients.of(made), seen, 1.0).capture_error < 0.9
