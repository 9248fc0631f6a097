"""Gates: laws as properties, and one constructed truth by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from smda_monitor.errors import MeasurementError
from smda_monitor.maths import gates

finite = st.floats(-1e6, 1e6, width=32)
positive = st.floats(0, 1e6, width=32)


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)


def test_by_hand() -> None:
    z = column(-2.0, 0.5, 1.0, 3.0)
    theta = column(1.0, 1.0, 1.0, 1.0)
    assert gates.continuous(z, theta).tolist() == [0, 0, 0, 2]
    assert gates.jump(z, theta).tolist() == [0, 0, 0, 3]
    assert gates.relu_proxy(z).tolist() == [0, 0.5, 1, 3]
    assert gates.top_k(z, 2).tolist() == [0, 0, 1, 3]
    assert gates.top_k(-z.abs(), 2).tolist() == [0, 0, 0, 0]


@settings(deadline=None)
@given(finite, positive)
def test_continuous_switches_where_jumprelu_does(z: float, theta: float) -> None:
    zs, thetas = column(z), column(theta)
    assert bool(gates.continuous(zs, thetas) > 0) == bool(gates.jump(zs, thetas) > 0)


@settings(deadline=None)
@given(finite, positive)
def test_continuous_switches_where_jumprelu_does_next_to_the_threshold(z: float, theta: float) -> None:
    thetas = column(theta)
    for zs in (thetas, torch.nextafter(thetas, column(z)), torch.nextafter(thetas, column(-z))):
        assert bool(gates.continuous(zs, thetas) > 0) == bool(gates.jump(zs, thetas) > 0)


@settings(deadline=None)
@given(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3), st.floats(0, 1e3))
def test_continuous_is_continuous(a: float, b: float, theta: float) -> None:
    # 1-Lipschitz, hence continuous: two pre-activations are never further apart after the gate than before it.
    za, zb, thetas = (torch.tensor([v], dtype=torch.float64) for v in (a, b, theta))
    moved = float((gates.continuous(za, thetas) - gates.continuous(zb, thetas)).abs())
    assert moved <= abs(a - b) + 1e-12


def test_jumprelu_and_topk_are_not_continuous() -> None:
    # The check above is not vacuous: the native gates leap over the same small distance.
    theta = torch.tensor([1.0], dtype=torch.float64)
    below, above = theta - 1e-9, theta + 1e-9
    assert float(gates.jump(above, theta) - gates.jump(below, theta)) > 0.9
    row = torch.tensor([1.0, 1.0 - 1e-9])
    swapped = torch.tensor([1.0, 1.0 + 1e-6])
    assert float((gates.top_k(swapped, 1) - gates.top_k(row, 1)).abs().max()) > 0.9


@settings(deadline=None)
@given(st.lists(finite, min_size=1, max_size=8))
def test_gradient_is_the_active_gate(values: list[float]) -> None:
    # ΔX without the active gate would move features that are off.
    z = column(*values).requires_grad_()
    theta = torch.full_like(z, 0.5)
    (gradient,) = torch.autograd.grad(gates.continuous(z, theta).sum(), z)
    assert gradient.tolist() == [float(v > 0.5) for v in z.tolist()]


@settings(deadline=None)
@given(st.lists(finite, min_size=1, max_size=8))
def test_relu_proxy_is_continuous_at_zero_threshold(values: list[float]) -> None:
    z = column(*values)
    assert torch.equal(gates.relu_proxy(z), gates.continuous(z, torch.zeros_like(z)))


@settings(deadline=None)
@given(st.integers(1, 12), st.integers(2, 9), st.integers(0, 2**32 - 1), st.data())
def test_average_threshold_lets_k_through(n: int, d: int, seed: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, d - 1))
    # Positive and pairwise distinct by more than rounding.
    order = torch.randperm(n * d, generator=torch.Generator().manual_seed(seed))
    z = (1.0 + order.float()).reshape(n, d)
    theta = gates.average_threshold(z, k)
    assert int((z > theta).sum()) == n * k


def test_average_threshold_is_never_below_zero() -> None:
    assert gates.average_threshold(-torch.rand(5, 4), 2) == 0.0
    assert gates.average_threshold(torch.rand(5, 4), 4) == 0.0


@pytest.mark.parametrize("z", [torch.empty(0, 4), torch.tensor([[1.0, float("nan")]])])
def test_average_threshold_needs_finite_rows(z: Tensor) -> None:
    with pytest.raises(MeasurementError, match="TopK dictionary"):
        gates.average_threshold(z, 1)
