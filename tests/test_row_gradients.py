"""Rows kept formed or as factors: the same figures, any range, against autograd and written-out sums."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from smda_monitor.maths.row_gradients import (
    DenseRows,
    EmbeddingFactors,
    Head,
    LinearFactors,
    RowAccumulator,
    RowFactors,
    RowGradients,
    head_factors,
)

B, T, D, OUT, V = 3, 5, 4, 6, 11


def draws(seed: int) -> Callable[..., Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(*shape, generator=generator)


def tokens(seed: int = 0) -> Tensor:
    return torch.randint(0, V, (B, T), generator=torch.Generator().manual_seed(seed))


def head(seed: int = 0, softcap: float | None = None) -> Head:
    randn = draws(seed)
    return Head(randn(V, D), randn(V), 1.7, softcap)


def kinds(seed: int) -> dict[str, tuple[int, RowFactors]]:
    """One contribution of each kind, and the size of its parameter."""
    randn = draws(seed)
    weights = randn(B, T) * (tokens(seed + 1) % 3 > 0)
    return {
        "linear": (OUT * D, LinearFactors(randn(B, T, D), randn(B, T, OUT))),
        "formed": (7, DenseRows(randn(B, 7))),
        "embedding": (V * D, EmbeddingFactors(tokens(seed), randn(B, T, D))),
        "head": (V * D, head_factors(randn(B, T, D), tokens(seed), weights, head(seed, softcap=3.0))),
    }


def gradients(seed: int = 0, formed: tuple[bool, ...] = (True, False, True, False)) -> RowGradients:
    """Four parameters; the embedding's has a contribution of the head too."""
    found = kinds(seed)
    bounds, start = [], 0
    for size, _ in found.values():
        bounds.append((start, start + size))
        start += size
    accumulator = RowAccumulator(B, bounds, formed)
    for number, (_, factors) in enumerate(found.values()):
        accumulator.add(number, factors)
    accumulator.add(2, kinds(seed + 10)["head"][1])
    return accumulator.result()


def test_linear_is_autograd_of_each_row() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(D, OUT)
    x = torch.randn(B, T, D)
    output = layer(x)
    (delta,) = torch.autograd.grad(output.square().sum(), output)
    found = LinearFactors(x, delta).dense(0, OUT * D)
    for b in range(B):
        (expected,) = torch.autograd.grad(layer(x[b : b + 1]).square().sum(), layer.weight)
        assert torch.allclose(found[b].reshape(OUT, D), expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(found[0], found[1])


def test_embedding_is_autograd_of_each_row() -> None:
    torch.manual_seed(0)
    table = nn.Embedding(V, D)
    ids = tokens()
    ids[0, :3] = 4
    output = table(ids)
    (delta,) = torch.autograd.grad(output.pow(3).sum(), output)
    found = EmbeddingFactors(ids, delta).dense(0, V * D)
    for b in range(B):
        (expected,) = torch.autograd.grad(table(ids[b : b + 1]).pow(3).sum(), table.weight)
        assert torch.allclose(found[b].reshape(V, D), expected, rtol=1e-5, atol=1e-5)
    nobody = EmbeddingFactors(torch.full_like(ids, -1), delta)
    assert not bool(nobody.dense(0, V * D).any())


@pytest.mark.parametrize("softcap", [None, 2.0])
def test_head_is_autograd_of_each_row(softcap: float | None) -> None:
    randn, given_head = draws(0), head(0, softcap)
    weight, bias = given_head.weight.clone().requires_grad_(), (given_head.bias + 0).requires_grad_()  # type: ignore[operator]
    hidden, targets, w = randn(B, T, D), tokens(), randn(B, T)
    w[0, 2:] = 0
    w[1] = 0
    found = head_factors(hidden, targets, w, given_head)
    assert found.hidden.shape[1] == T
    for b in range(B):
        z = given_head.scale * (hidden[b] @ weight.T + bias)
        z = z if softcap is None else softcap * torch.tanh(z / softcap)
        log_probs = z.log_softmax(-1)[torch.arange(T), targets[b]]
        expected = torch.autograd.grad((w[b] * log_probs).sum(), [weight, bias])
        assert torch.allclose(found.dense(0, V * D)[b].reshape(V, D), expected[0], rtol=1e-4, atol=1e-5)
        assert torch.allclose(found.bias()[b], expected[1], rtol=1e-4, atol=1e-5)
    assert not bool(found.dense(0, V * D)[1].any()), "a masked row has no gradient"


def test_the_head_keeps_only_tokens_that_carry_loss() -> None:
    randn = draws(0)
    w = torch.zeros(B, T)
    w[0, 1] = w[2, 3] = w[2, 4] = 1.0
    found = head_factors(randn(B, T, D), tokens(), w, head())
    assert found.hidden.shape == (B, 2, D)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["linear", "formed", "embedding", "head"]), st.data())
def test_any_range_of_the_factors_is_a_slice_of_the_whole(seed: int, kind: str, data: Any) -> None:
    size, factors = kinds(seed)[kind]
    start = data.draw(st.integers(0, size))
    stop = data.draw(st.integers(start, size))
    assert torch.allclose(factors.dense(start, stop), factors.dense(0, size)[:, start:stop], rtol=1e-4, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.tuples(*[st.booleans()] * 4), st.data())
def test_any_range_of_the_flat_vector_is_a_slice_of_the_whole(
    seed: int, formed: tuple[bool, bool, bool, bool], data: Any
) -> None:
    found = gradients(seed, formed)
    whole = found.dense(0, found.size)
    assert torch.allclose(whole, gradients(seed, (True,) * 4).matrix, rtol=1e-4, atol=1e-5), "however it is kept"
    start = data.draw(st.integers(0, found.size))
    stop = data.draw(st.integers(start, found.size))
    assert found.dense(start, stop).shape == (B, stop - start)
    assert torch.allclose(found.dense(start, stop), whole[:, start:stop], rtol=1e-4, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.tuples(*[st.booleans()] * 4), st.tuples(*[st.booleans()] * 4))
def test_joined_rows_are_one_below_the_other(seed: int, one: Any, two: Any) -> None:
    parts = [gradients(seed, one), gradients(seed + 1, two), gradients(seed + 2, one)]
    expected = torch.cat([part.dense(0, part.size) for part in parts])
    found = RowGradients.joined(parts)
    assert found.rows == 3 * B
    assert torch.allclose(found.dense(0, found.size), expected, rtol=1e-4, atol=1e-5)
    assert torch.allclose(found.dense(3, 90), expected[:, 3:90], rtol=1e-4, atol=1e-5)


def test_rows_that_are_all_formed_can_be_one() -> None:
    whole = gradients(formed=(True,) * 4)
    one = whole.summed()
    assert one.rows == 1
    assert torch.allclose(one.dense(0, one.size), whole.dense(0, one.size).sum(0, keepdim=True), atol=1e-6)


def test_a_formed_range_is_a_view() -> None:
    found = gradients(formed=(True, True, True, False))
    end = found.formed[-1][1]
    assert found.dense(5, end - 5).data_ptr() == found.matrix[:, 5:].data_ptr()
    assert found.dense(5, end + 1).data_ptr() != found.matrix[:, 5:].data_ptr()


def test_half_is_half_as_large_and_nearly_the_same() -> None:
    for formed in [(True,) * 4, (False,) * 4]:
        found = gradients(formed=formed)
        small = found.half()
        assert small.nbytes < 0.75 * found.nbytes
        whole = found.dense(0, found.size)
        assert small.dense(0, found.size).dtype == torch.float32
        error = float((small.dense(0, found.size) - whole).norm() / whole.norm())
        assert 0 < error < 1e-2
    heads = {id(p.factors.head) for p in small.pieces if hasattr(p.factors, "head")}
    assert len(heads) == 2, "one for each head there was"


def test_rows_share_the_copy_of_the_head() -> None:
    randn, shared = draws(0), head()
    parts = []
    for _ in range(3):
        accumulator = RowAccumulator(B, [(0, V * D)], [False])
        accumulator.add(0, head_factors(randn(B, T, D), tokens(), randn(B, T), shared))
        parts.append(accumulator.result())
    found = RowGradients.joined(parts)
    alone = found.nbytes - parts[0].nbytes
    assert alone == 2 * (parts[0].nbytes - V * D * 4)
    assert len({id(p.factors.head.weight) for p in found.half().pieces}) == 1  # type: ignore[attr-defined]


def test_memory_of_the_head_is_bounded() -> None:
    randn = draws(0)
    given_head = head()
    hidden, w = randn(B, T, D), randn(B, T)
    whole = head_factors(hidden, tokens(), w, given_head)
    expected, bias = whole.dense(0, V * D), whole.bias()
    chunked = head_factors(hidden, tokens(), w, replace(given_head, chunk=B * T * 2))
    assert torch.allclose(chunked.dense(0, V * D), expected, rtol=1e-4, atol=1e-5)
    assert torch.allclose(chunked.bias(), bias, rtol=1e-4, atol=1e-5)


def test_a_range_outside_and_vectors_of_two_lengths_are_refused() -> None:
    found = gradients()
    for start, stop in [(-1, 3), (4, 2), (0, found.size + 1)]:
        with pytest.raises(ValueError, match=f"range {start}:{stop} of {found.size}"):
            found.dense(start, stop)
    other = RowAccumulator(B, [(0, 4)], [True]).result()
    with pytest.raises(ValueError, match="do not join"):
        RowGradients.joined([found, other])


def test_parameters_that_nothing_contributes_to_are_zero() -> None:
    found = RowAccumulator(B, [(0, 4), (4, 8)], [True, False]).result()
    assert found.nbytes == B * 4 * 4
    assert torch.equal(found.dense(0, 8), torch.zeros(B, 8))
