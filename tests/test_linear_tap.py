"""Per-row gradients from activations against autograd for each row alone."""

from __future__ import annotations

import pytest
import tiny
import torch
from torch import Tensor, nn

from smda_monitor.instruments.linear_tap import LinearTap, row_gradients
from smda_monitor.instruments.parameters import TrainedParameters, trained_parameters

ROWS, LENGTH = 3, 7


def ids(seed: int = 0) -> Tensor:
    return torch.randint(4, 300, (ROWS, LENGTH), generator=torch.Generator().manual_seed(seed))


def flat_gradient(scalar: Tensor, parameters: TrainedParameters) -> Tensor:
    found = torch.autograd.grad(scalar, parameters.weights, allow_unused=True)
    zeros = [torch.zeros_like(w) for w in parameters.weights]
    return torch.cat([(z if g is None else g).reshape(-1) for g, z in zip(found, zeros, strict=True)])


def function(logits: Tensor) -> Tensor:
    """Something of each row alone, (rows,), that is not linear in the logits."""
    return logits[:, -1].logsumexp(-1) * 3 + logits[:, 2, :5].square().sum(-1)


def dense(tap: LinearTap, scalar: Tensor) -> Tensor:
    """(rows, p) gradients of `scalar` by row."""
    rows = tap.rows(scalar)[0]
    return rows.dense(0, rows.size)


def worst(found: Tensor, expected: Tensor) -> float:
    return float(((found - expected).norm(dim=1) / expected.norm(dim=1)).max())


def test_one_linear_layer() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(4, 3, bias=False)
    x = torch.randn(ROWS, LENGTH, 4)
    output = layer(x)
    (gradient,) = torch.autograd.grad(output.square().sum(), output)
    found = row_gradients(x, gradient)
    for b in range(ROWS):
        (expected,) = torch.autograd.grad(layer(x[b : b + 1]).square().sum(), layer.weight)
        assert torch.allclose(found[b].reshape(3, 4), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_every_row_alone(dropout: float) -> None:
    model = tiny.tiny_lora(tiny.tiny_llama(), dropout)
    model.eval()  # dropout is off, as in a probe
    parameters = trained_parameters(model)
    with LinearTap(parameters) as tap:
        found = dense(tap, function(model(input_ids=ids(), use_cache=False).logits).sum())
    expected = torch.stack(
        [flat_gradient(function(model(input_ids=row[None], use_cache=False).logits).sum(), parameters) for row in ids()]
    )
    assert found.shape == (ROWS, parameters.size)
    assert worst(found, expected) < 1e-5
    assert worst(found.flip(0), expected) > 0.1, "rows differ"
    assert all(w.grad is None for w in model.parameters()), "no parameter got a gradient of its own"


def test_several_scalars_of_one_forward() -> None:
    model = tiny.tiny_lora(tiny.tiny_llama())
    parameters = trained_parameters(model)
    with LinearTap(parameters) as tap:
        logits = model(input_ids=ids(), use_cache=False).logits
        one, two = dense(tap, logits[:, -1, 5].sum()), dense(tap, function(logits).sum())
        both = dense(tap, (logits[:, -1, 5] + function(logits)).sum())
    assert torch.allclose(one + two, both, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(one, two)


def test_layers_above_a_hookpoint_get_zeros() -> None:
    model = tiny.tiny_lora(tiny.tiny_llama())
    parameters = trained_parameters(model)
    with LinearTap(parameters) as tap:
        output = model(input_ids=ids(), use_cache=False, output_hidden_states=True)
        found = dense(tap, output.hidden_states[2].square().sum())  # the output of block 1
    above = [layer for layer in parameters.layers if ".layers.2." in layer.name]
    below = [layer for layer in parameters.layers if ".layers.2." not in layer.name]
    assert len(above) == 4
    assert not any(bool(found[:, layer.start : layer.stop].any()) for layer in above)
    assert all(bool(found[:, layer.start : layer.stop].any()) for layer in below)


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules())


@pytest.mark.parametrize("fails", [False, True])
def test_hooks_are_gone_afterwards(fails: bool) -> None:
    model = tiny.tiny_lora(tiny.tiny_llama())
    before = hooks(model)
    try:
        with LinearTap(trained_parameters(model)):
            assert hooks(model) > before
            if fails:
                raise ArithmeticError
    except ArithmeticError:
        assert fails
    assert hooks(model) == before


def test_the_forward_is_not_changed() -> None:
    model = tiny.tiny_lora(tiny.tiny_llama())
    plain = model(input_ids=ids(), use_cache=False).logits
    with LinearTap(trained_parameters(model)):
        assert torch.equal(model(input_ids=ids(), use_cache=False).logits, plain)
