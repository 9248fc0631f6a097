"""Reading AdamW's state: what is refused, and that what is read are copies of the right elements."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from smda_monitor.errors import PrerequisiteError
from smda_monitor.instruments.optimizer_state import bare_optimizer, check_optimizer, read_adamw
from smda_monitor.instruments.parameters import trained_parameters


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 2, bias=False), nn.Linear(2, 2, bias=False))


class Homemade(torch.optim.AdamW):
    """A subclass may do anything in its step."""


@pytest.mark.parametrize("implementation", [{}, {"foreach": True}, {"fused": True}])
def test_adamw_is_accepted_bare_and_wrapped(implementation: dict[str, Any]) -> None:
    optimizer = torch.optim.AdamW(model().parameters(), **implementation)
    check_optimizer(optimizer)
    check_optimizer(SimpleNamespace(optimizer=optimizer))
    assert bare_optimizer(SimpleNamespace(optimizer=optimizer)) is optimizer


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda p: torch.optim.Adam(p), "torch.optim.adam.Adam"),
        (lambda p: torch.optim.SGD(p), "SGD"),
        (lambda p: torch.optim.RAdam(p), "RAdam"),
        (lambda p: Homemade(p), "Homemade"),
        (lambda p: torch.optim.AdamW(p, amsgrad=True), "AdamW with amsgrad"),
        (lambda p: torch.optim.AdamW(p, maximize=True), "AdamW with maximize"),
        (lambda p: None, "NoneType"),
    ],
)
def test_any_other_optimizer_is_refused_by_name(make: Any, named: str) -> None:
    with pytest.raises(PrerequisiteError, match=named) as error:
        check_optimizer(make(list(model().parameters())))
    assert "adamw_torch_fused" in str(error.value)


def test_state_before_the_first_step_is_zero() -> None:
    net = model()
    parameters = trained_parameters(net)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1, weight_decay=0.2)
    state = read_adamw(optimizer, parameters)
    assert not bool(state.m.any())
    assert not bool(state.v.any())
    assert [(s.start, s.stop, s.t) for s in state.segments] == [(0, 6, 1), (6, 10, 1)]
    assert torch.equal(state.theta, torch.cat([w.detach().reshape(-1) for w in parameters.weights]).double())


def test_what_is_read_stays_when_the_optimizer_goes_on() -> None:
    net = model()
    parameters = trained_parameters(net)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1)
    for _ in range(2):
        net(torch.ones(1, 3)).sum().backward()
        state = read_adamw(optimizer, parameters)
        kept = [t.clone() for t in (state.theta, state.m, state.v)]
        optimizer.step()
        assert all(torch.equal(a, b) for a, b in zip(kept, (state.theta, state.m, state.v), strict=True))
    later = read_adamw(optimizer, parameters)
    assert not torch.equal(later.theta, state.theta)
    assert bool(later.m.any())
    assert later.segments[0].t == 3


def test_hyper_parameters_of_each_group_lie_where_its_parameters_do() -> None:
    net = model()
    one, two = net.parameters()
    optimizer = torch.optim.AdamW([{"params": [two], "lr": 0.5}, {"params": [one], "weight_decay": 0.3}], lr=0.1)
    state = read_adamw(optimizer, trained_parameters(net))
    assert state.spread("lr").tolist() == [0.1] * 6 + [0.5] * 4
    assert state.spread("weight_decay").tolist() == [0.3] * 6 + [0.01] * 4


def test_a_trained_parameter_without_group_is_named() -> None:
    net = model()
    first = next(iter(net.parameters()))
    with pytest.raises(PrerequisiteError, match=r"no group with 1\.weight"):
        read_adamw(torch.optim.AdamW([first]), trained_parameters(net))
