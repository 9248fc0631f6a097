"""Gradients by row of probe passes, of one and of several forwards, against autograd for each row alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import tiny
import torch
from test_row_modes import MODES
from torch import Tensor, nn

from smda_monitor.errors import MeasurementError
from smda_monitor.instruments.gradient_tap import GradientTap
from smda_monitor.instruments.parameters import TrainedParameters, trained_parameters

ROWS, LENGTH, PREFIX = 3, 7, 4


def ids(seed: int = 0) -> Tensor:
    return torch.randint(4, 300, (ROWS, LENGTH), generator=torch.Generator().manual_seed(seed))


def flat_gradient(scalar: Tensor, parameters: TrainedParameters) -> Tensor:
    found = torch.autograd.grad(scalar, parameters.weights, allow_unused=True)
    zeros = [torch.zeros_like(w) for w in parameters.weights]
    return torch.cat([(z if g is None else g).reshape(-1) for g, z in zip(found, zeros, strict=True)])


def function(logits: Tensor) -> Tensor:
    """Something of each row alone, (rows,), that is not linear in the logits."""
    return logits[:, -1].logsumexp(-1) * 3 + logits[:, 2, :5].square().sum(-1)


def whole(tap: GradientTap, scalar: Tensor) -> Tensor:
    (found,) = tap.rows(scalar)
    return found.dense(0, found.size)


def worst(found: Tensor, expected: Tensor) -> float:
    return float(((found - expected).norm(dim=1) / expected.norm(dim=1)).max())


def one_forward(model: Any, rows: Tensor) -> Tensor:
    logits: Tensor = model(input_ids=rows, use_cache=False).logits
    return logits


def two_stages(model: Any, rows: Tensor) -> Tensor:
    """The first tokens in one forward, the others in a second one on its keys and values."""
    first = model(input_ids=rows[:, :PREFIX], use_cache=True)
    second = model(input_ids=rows[:, PREFIX:], past_key_values=first.past_key_values, use_cache=True)
    return torch.cat([first.logits, second.logits], 1)


def head_on_one_position(model: Any, rows: Tensor) -> Tensor:
    """The head called on (rows, d), apart from the model's own forward."""
    hidden = model.get_base_model().model(input_ids=rows, use_cache=False).last_hidden_state
    logits = torch.stack([model.get_output_embeddings()(hidden[:, t]) for t in (2, LENGTH - 1)], 1)
    return logits[:, [0, 0, 0, 1]]


class ExactDora(nn.Module):
    """A DoRA layer written out, with the derivative of its norm."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        base, magnitude = self.layer.get_base_layer(), self.layer.lora_magnitude_vector["default"].weight
        weight = base.weight.T if self.layer.fan_in_fan_out else base.weight
        A, B = self.layer.lora_A["default"].weight, self.layer.lora_B["default"].weight
        V = weight + self.layer.scaling["default"] * B @ A
        return nn.functional.linear(x, V * (magnitude / V.norm(dim=1))[:, None], base.bias)


def exact(model: Any) -> Any:
    """`model` with every DoRA layer written out, on the same parameters."""
    for name, module in list(model.named_modules()):
        if len(getattr(module, "lora_magnitude_vector", ())):
            model.set_submodule(name, ExactDora(module))
    return model


def check(model: Any, forward: Callable[[Any, Tensor], Tensor]) -> None:
    model.eval()
    parameters = trained_parameters(model)
    with GradientTap(parameters) as tap:
        found = whole(tap, function(forward(model, ids())).sum())
    model = exact(model)
    expected = torch.stack([flat_gradient(function(forward(model, row[None])).sum(), parameters) for row in ids()])
    assert found.shape == (ROWS, parameters.size)
    assert worst(found, expected) < 1e-5
    for tensor in parameters.tensors:
        mine, theirs = found[:, tensor.start : tensor.stop], expected[:, tensor.start : tensor.stop]
        assert float((mine - theirs).norm()) <= 1e-5 * float(theirs.norm()) + 1e-8 * float(expected.norm()), tensor.name
    assert worst(found.flip(0), expected) > 0.1, "rows differ"
    assert all(w.grad is None for w in model.parameters()), "no parameter got a gradient of its own"


@pytest.mark.parametrize("mode", MODES)
def test_every_row_alone(mode: str) -> None:
    check(MODES[mode](), one_forward)


@pytest.mark.parametrize("mode", MODES)
def test_two_stages(mode: str) -> None:
    check(MODES[mode](), two_stages)


@pytest.mark.parametrize("mode", ["LoRA", "embeddings and head", "tied embeddings and head"])
def test_the_head_apart(mode: str) -> None:
    check(MODES[mode](), head_on_one_position)


def test_dora_s_own_backward_lacks_the_norm() -> None:
    model = MODES["DoRA"]()
    parameters = trained_parameters(model)
    short = flat_gradient(function(one_forward(model, ids())).sum(), parameters)
    full = flat_gradient(function(one_forward(exact(model), ids())).sum(), parameters)
    assert float((short - full).norm() / full.norm()) > 0.05


def test_dropout_is_off() -> None:
    check(tiny.tiny_lora(tiny.tiny_llama(), 0.5), one_forward)


def test_several_scalars_of_one_forward() -> None:
    model = tiny.tiny_lora(tiny.tiny_llama())
    parameters = trained_parameters(model)
    with GradientTap(parameters) as tap:
        logits = one_forward(model, ids())
        one, two = whole(tap, logits[:, -1, 5].sum()), whole(tap, function(logits).sum())
        both = whole(tap, (logits[:, -1, 5] + function(logits)).sum())
    assert torch.allclose(one + two, both, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(one, two)


def test_several_scalars_from_one_backward() -> None:
    model = tiny.tiny_lora(tiny.tiny_llama())
    parameters = trained_parameters(model)
    with GradientTap(parameters) as tap:
        output = model(input_ids=ids(), use_cache=False, output_hidden_states=True)
        scalars = function(output.logits).sum(), output.hidden_states[1].square().sum()
        alone = [whole(tap, scalar) for scalar in scalars]
        together = [rows.dense(0, rows.size) for rows in tap.rows(*scalars)]
    assert all(worst(found, expected) < 1e-6 for found, expected in zip(together, alone, strict=True))
    assert worst(*together) > 0.1


class Stubborn(torch.autograd.Function):
    """The identity; its backward looks into the numbers, which a batch of gradients does not let it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * float(gradient.abs().max().item() >= 0)


def test_a_backward_that_cannot_be_batched_runs_once_for_each_scalar() -> None:
    model = tiny.tiny_lora(tiny.tiny_llama())
    parameters = trained_parameters(model)
    with GradientTap(parameters) as tap:
        plain = one_forward(model, ids())
        logits = Stubborn.apply(plain)
        scalars = logits[:, -1, 5].sum(), function(logits).sum()
        with pytest.raises(RuntimeError):
            torch.autograd.grad(torch.stack(scalars), plain, torch.eye(2), retain_graph=True, is_grads_batched=True)
        alone = [whole(tap, scalar) for scalar in scalars]
        together = [rows.dense(0, rows.size) for rows in tap.rows(*scalars)]
    assert all(torch.equal(found, expected) for found, expected in zip(together, alone, strict=True))


def test_layers_above_a_hookpoint_get_zeros() -> None:
    model = tiny.tiny_lora(tiny.tiny_llama())
    parameters = trained_parameters(model)
    with GradientTap(parameters) as tap:
        output = model(input_ids=ids(), use_cache=False, output_hidden_states=True)
        found = whole(tap, output.hidden_states[2].square().sum())  # the output of block 1
    above = [tensor for tensor in parameters.tensors if ".layers.2." in tensor.name]
    below = [tensor for tensor in parameters.tensors if ".layers.2." not in tensor.name]
    assert len(above) == 4
    assert not any(bool(found[:, tensor.start : tensor.stop].any()) for tensor in above)
    assert all(bool(found[:, tensor.start : tensor.stop].any()) for tensor in below)


def test_forwards_without_gradients_are_passed_over() -> None:
    model = tiny.tiny_lora(tiny.tiny_llama())
    parameters = trained_parameters(model)
    with GradientTap(parameters) as tap:
        with torch.no_grad():
            one_forward(model, ids(1)[:2])
        found = whole(tap, function(one_forward(model, ids())).sum())
    with GradientTap(parameters) as tap:
        assert torch.equal(found, whole(tap, function(one_forward(model, ids())).sum()))


def test_a_tap_that_saw_nothing_and_other_rows_are_refused() -> None:
    model = tiny.tiny_lora(tiny.tiny_llama())
    with GradientTap(trained_parameters(model)) as tap, pytest.raises(MeasurementError, match="no call of a trained"):
        next(tap.rows(torch.ones((), requires_grad=True)))
    with GradientTap(trained_parameters(model)) as tap:
        logits = function(one_forward(model, ids())).sum() + function(one_forward(model, ids()[:2])).sum()
        with pytest.raises(MeasurementError, match=r"trained module: found .*3 rows first"):
            next(tap.rows(logits))


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules())


@pytest.mark.parametrize("fails", [False, True])
def test_hooks_are_gone_afterwards(fails: bool) -> None:
    model = tiny.tiny_lora(tiny.tiny_llama())
    before = hooks(model)
    try:
        with GradientTap(trained_parameters(model)):
            assert hooks(model) > before
            if fails:
                raise ArithmeticError
    except ArithmeticError:
        assert fails
    assert hooks(model) == before


@pytest.mark.parametrize("mode", ["LoRA", "full, GPT-2"])
def test_the_forward_is_not_changed(mode: str) -> None:
    model = MODES[mode]()
    plain = one_forward(model, ids())
    with GradientTap(trained_parameters(model)):
        assert torch.equal(one_forward(model, ids()), plain)
