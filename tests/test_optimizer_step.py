"""Reading the optimizer's step: what is not known exactly, and that what is read are copies of the right elements."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from taken import across
from torch import nn

from smda_monitor.errors import PrerequisiteError
from smda_monitor.instruments.optimizer_step import (
    bare_optimizer,
    read_step,
    step_hooks,
    step_was_skipped,
    unknown_step,
)
from smda_monitor.instruments.parameters import trained_parameters
from smda_monitor.maths.adam import AdamStep
from smda_monitor.maths.sgd import SgdStep
from smda_monitor.maths.step_map import NoStep


def model() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 2, bias=False), nn.Linear(2, 2, bias=False))
    for weight in net.parameters():
        weight.grad = torch.zeros_like(weight)
    return net


class Homemade(torch.optim.AdamW):
    """A subclass may do anything in its step."""


@pytest.mark.parametrize("implementation", [{}, {"foreach": True}, {"fused": True}])
def test_adamw_is_accepted_bare_and_wrapped(implementation: dict[str, Any]) -> None:
    optimizer = torch.optim.AdamW(model().parameters(), **implementation)
    assert unknown_step(optimizer) is None
    assert unknown_step(SimpleNamespace(optimizer=optimizer)) is None
    assert bare_optimizer(SimpleNamespace(optimizer=optimizer)) is optimizer


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.SGD])
def test_the_other_known_ones_are_accepted(kind: Any) -> None:
    assert unknown_step(kind(model().parameters(), lr=0.1)) is None


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda p: torch.optim.RAdam(p), "RAdam"),
        (lambda p: torch.optim.Adafactor(p), "Adafactor"),
        (lambda p: Homemade(p), "Homemade"),
    ],
)
def test_any_other_optimizer_is_named(make: Any, named: str) -> None:
    reason = unknown_step(make(list(model().parameters())))
    assert reason is not None
    assert named in reason
    assert "torch.optim.AdamW" in reason


@pytest.mark.parametrize("found", [None, SimpleNamespace(param_groups=[])])
def test_what_is_no_optimizer_is_refused(found: Any) -> None:
    with pytest.raises(PrerequisiteError, match=r"found \S+; expected a torch\.optim\.Optimizer.*adamw_torch_fused"):
        unknown_step(found)


def test_hooks_of_the_step_are_named() -> None:
    def doubles(optimizer: Any, args: Any, kwargs: Any) -> None:
        for weight in optimizer.param_groups[0]["params"]:
            weight.grad.mul_(2)

    optimizer = torch.optim.AdamW(model().parameters())
    assert step_hooks(SimpleNamespace(optimizer=optimizer)) == []
    optimizer.register_step_pre_hook(doubles)
    optimizer.register_step_post_hook(SimpleNamespace)
    assert [name.rpartition(".")[2] for name in step_hooks(optimizer)] == ["doubles", "SimpleNamespace"]


def test_a_skipped_step_is_told_by_the_wrapper_alone() -> None:
    assert step_was_skipped(SimpleNamespace(step_was_skipped=True))
    assert not step_was_skipped(SimpleNamespace(step_was_skipped=False))
    assert not step_was_skipped(torch.optim.AdamW(model().parameters()))


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD])
def test_a_parameter_without_gradient_has_no_step(kind: Any) -> None:
    net = model()
    one, two = net.parameters()
    momentum = {"momentum": 0.9} if kind is torch.optim.SGD else {}
    optimizer = kind(net.parameters(), lr=0.1, weight_decay=0.5, **momentum)
    parameters = trained_parameters(net)
    for weight in (one, two):
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    two.grad = None  # momentum and decay would act on it
    (end, _), (whole, part) = read_step(optimizer, parameters).parts
    assert (end, whole) == (6, 10)
    assert isinstance(part, NoStep)
    step = read_step(optimizer, parameters)
    gradient = torch.cat([torch.ones(6), torch.zeros(4)]).double()
    before = torch.cat([w.detach().reshape(-1).double() for w in (one, two)])
    optimizer.step()
    taken = torch.cat([w.detach().reshape(-1).double() for w in (one, two)]) - before
    assert torch.allclose(across(step, "update", gradient), taken, atol=1e-6)
    assert not bool(taken[6:].any())
    for found in (across(step, way, gradient) for way in ("share_scale", "history", "decay")):
        assert not bool(found[6:].any())
        assert bool(found[:6].any())


def test_state_before_the_first_step_is_zero_and_neighbours_share_a_part() -> None:
    net = model()
    parameters = trained_parameters(net)
    ((stop, part),) = read_step(torch.optim.AdamW(net.parameters(), lr=0.1, weight_decay=0.2), parameters).parts
    assert isinstance(part, AdamStep)
    assert (stop, part.t) == (10, 1)
    assert not bool(part.m.any())
    assert not bool(part.v.any())
    assert torch.equal(part.theta, torch.cat([w.detach().reshape(-1) for w in parameters.weights]))
    ((_, first),) = read_step(torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9), parameters).parts
    assert isinstance(first, SgdStep)
    assert first.buffer is None


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.Adam, torch.optim.SGD])
def test_parameters_take_no_memory_where_nothing_decays(kind: Any) -> None:
    net = model()
    parameters = trained_parameters(net)
    sizes = []
    for decay in (0.0, 0.1):
        optimizer = kind(net.parameters(), lr=0.1, weight_decay=decay)
        ((_, part),) = read_step(optimizer, parameters).parts
        assert not isinstance(part, NoStep)
        gradient = torch.linspace(-1, 1, 10, dtype=torch.float64)
        before = parameters.flatten(parameters.weights).double()
        for weight, part_of in zip(net.parameters(), parameters.split(gradient.float()), strict=True):
            weight.grad = part_of.clone()
        optimizer.step()
        moved = parameters.flatten(parameters.weights).double() - before
        assert torch.allclose(part.update(gradient), moved, atol=1e-6)
        sizes.append(part.theta.untyped_storage().nbytes())  # type: ignore[attr-defined]
    assert sizes == [4, 40]


def test_neighbours_with_the_same_hyper_parameters_share_a_part() -> None:
    net = model()
    step = read_step(torch.optim.AdamW(net.parameters()), trained_parameters(net))
    assert [stop for stop, _ in step.parts] == [10]
    assert [(a, b) for _, a, b, _ in step.slabs(6)] == [(0, 6), (6, 10)], "ranges are cut when they are worked on"


def test_what_is_read_stays_when_the_optimizer_goes_on() -> None:
    net = model()
    parameters = trained_parameters(net)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(2):
        net(torch.ones(1, 3)).sum().backward()
        ((_, part),) = read_step(optimizer, parameters).parts
        assert isinstance(part, AdamStep)
        kept = [t.clone() for t in (part.theta, part.m, part.v)]
        optimizer.step()
        assert all(torch.equal(a, b) for a, b in zip(kept, (part.theta, part.m, part.v), strict=True))
    ((_, later),) = read_step(optimizer, parameters).parts
    assert isinstance(later, AdamStep)
    assert not torch.equal(later.theta, part.theta)
    assert bool(later.m.any())
    assert later.t == 3


def test_hyper_parameters_of_each_group_lie_where_its_parameters_do() -> None:
    net = model()
    one, two = net.parameters()
    optimizer = torch.optim.AdamW([{"params": [two], "lr": 0.5}, {"params": [one], "weight_decay": 0.3}], lr=0.1)
    (end, first), (whole, second) = read_step(optimizer, trained_parameters(net)).parts
    assert (end, whole) == (6, 10)
    assert isinstance(first, AdamStep)
    assert isinstance(second, AdamStep)
    assert (first.lr, first.weight_decay) == (0.1, 0.3)
    assert (second.lr, second.weight_decay) == (0.5, 0.01)


def test_a_trained_parameter_without_group_is_named() -> None:
    net = model()
    first = next(iter(net.parameters()))
    with pytest.raises(PrerequisiteError, match=r"no group with 1\.weight"):
        read_step(torch.optim.AdamW([first]), trained_parameters(net))
