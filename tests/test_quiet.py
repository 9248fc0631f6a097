"""`quiet` leaves modes and random states as they were, whatever happens inside."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn

from smda_monitor.instruments.quiet import quiet


def build() -> nn.Module:
    """A model in train mode with one part in eval mode, as people freeze a part's dropout."""
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5), nn.Sequential(nn.Dropout(0.5), nn.Linear(3, 3)))
    model.train()
    model[2][0].eval()
    return model


def modes(model: nn.Module) -> list[bool]:
    return [m.training for m in model.modules()]


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def seed() -> None:
    random.seed(3)
    np.random.seed(3)
    torch.manual_seed(3)


def test_modes_come_back_module_by_module() -> None:
    model = build()
    before = modes(model)
    assert len(set(before)) == 2
    with quiet(model):
        assert modes(model) == [False] * len(before)
        x = torch.randn(5, 3)
        assert torch.equal(model(x), model(x)), "no dropout"
    assert modes(model) == before


@pytest.mark.parametrize("fails", [False, True])
def test_random_states_are_untouched(fails: bool) -> None:
    model = build()
    before = modes(model)
    seed()
    draw()
    expected = draw()
    seed()
    draw()
    try:
        with quiet(model):
            inside = [draw() for _ in range(3)]
            torch.manual_seed(99)
            if fails:
                raise ArithmeticError
    except ArithmeticError:
        assert fails
    assert draw() == expected
    assert modes(model) == before
    assert inside[0] == expected, "what is drawn inside is what would have come"


def test_without_quiet_the_states_move() -> None:
    seed()
    expected = draw()
    seed()
    draw()
    moved = draw()
    assert all(a != b for a, b in zip(moved, expected, strict=True))


def test_the_exception_goes_on() -> None:
    with pytest.raises(ZeroDivisionError), quiet(build()):
        raise ZeroDivisionError


def test_nested() -> None:
    model = build()
    before = modes(model)
    with quiet(model):
        with quiet(model):
            pass
        assert modes(model) == [False] * len(before)
    assert modes(model) == before


def test_parameters_and_their_gradients_stay() -> None:
    model = build()
    model(torch.randn(2, 3)).sum().backward()
    kept = [(p.detach().clone(), None if p.grad is None else p.grad.clone()) for p in model.parameters()]
    with quiet(model), torch.no_grad():
        model(torch.randn(2, 3))
    for (value, grad), p in zip(kept, model.parameters(), strict=True):
        assert torch.equal(value, p)
        assert grad is not None
        assert p.grad is not None
        assert torch.equal(grad, p.grad)


def test_weights_in_4_bit_keep_their_form() -> None:
    """A CPU that can packs them for good, in eval mode, to what training reads wrongly."""
    bitsandbytes = pytest.importorskip("bitsandbytes")
    model = bitsandbytes.nn.Linear4bit(64, 64, bias=False).to("cpu")
    kept, form, x = model.weight.data.clone(), model.weight.data.shape, torch.randn(3, 64)
    packs = model.support_avx512bf16_for_cpu
    with quiet(model), torch.no_grad():
        model(x)
    assert torch.equal(model.weight.data, kept)
    assert model.support_avx512bf16_for_cpu == packs
    with torch.no_grad():
        model.eval()(x)
    assert (model.weight.data.shape != form) == packs, "what quiet keeps off"
