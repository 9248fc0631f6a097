"""A rehearsed step is the step that comes, on any optimizer, and leaves every bit of it as it was."""

from __future__ import annotations

import copy
import random
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strange_optimizers import Homemade, Lion
from torch import Tensor, nn

from smda_monitor.errors import MeasurementError
from smda_monitor.instruments.parameters import TrainedParameters, trained_parameters
from smda_monitor.instruments.rehearsal import rehearsal


def adafactor(p: Any) -> Any:
    from transformers.optimization import Adafactor

    return Adafactor(p, lr=1e-2, scale_parameter=False, relative_step=False, beta1=0.9)


def wrapped(p: Any) -> Any:
    """An optimizer in a wrapper as Accelerate's, and with a scheduler's counter around its step."""
    optimizer = torch.optim.AdamW(p, lr=torch.tensor(1e-2), foreach=False)
    optimizer.scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)  # type: ignore[attr-defined]
    return optimizer


OPTIMIZERS: dict[str, Callable[[Any], Any]] = {
    "AdamW": lambda p: torch.optim.AdamW(p, lr=1e-2, foreach=False),
    "AdamW foreach": lambda p: torch.optim.AdamW(p, lr=1e-2, foreach=True),
    "AdamW fused": lambda p: torch.optim.AdamW(p, lr=1e-2, fused=True),
    "AdamW amsgrad": lambda p: torch.optim.AdamW(p, lr=1e-2, amsgrad=True),
    "AdamW scheduled": wrapped,
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "torch Adafactor": lambda p: torch.optim.Adafactor(p),
    "Adafactor": adafactor,
    "Lion": Lion,
    "Homemade": Homemade,
}
WITH_OWN_STATE = [name for name in OPTIMIZERS if name != "AdamW scheduled"]


class Net(nn.Module):
    """Three layers, of which the last gets no gradient, and a dropout that has a mode."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = (nn.Linear(4, 4, bias=False) for _ in range(3))
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.drop(torch.tanh(self.one(x))))  # type: ignore[no-any-return]


def gradient(step: int) -> Tensor:
    return torch.randn(48, generator=torch.Generator().manual_seed(step), dtype=torch.float64)


def give(parameters: TrainedParameters, flat: Tensor) -> None:
    for weight, part in list(zip(parameters.weights, parameters.split(flat), strict=True))[:2]:
        weight.grad = part.to(weight.dtype)


def setting(name: str, steps: int = 3) -> tuple[Net, TrainedParameters, Any]:
    """A model whose optimizer has taken `steps` steps and is about to take another, on gradient number 9."""
    torch.manual_seed(0)
    np.random.seed(0)
    model = Net().train()
    parameters = trained_parameters(model)
    optimizer = OPTIMIZERS[name](model.parameters())
    for t in range(steps):
        give(parameters, gradient(t))
        optimizer.step()
    give(parameters, gradient(9))
    return model, parameters, optimizer


def picture(value: Any, seen: dict[int, int]) -> Any:
    """Everything in `value` down to bytes, with objects by the order in which they were met."""
    if isinstance(value, Tensor):
        return ("tensor", str(value.dtype), tuple(value.shape), value.detach().numpy().tobytes())
    if isinstance(value, torch.Generator):
        return ("generator", value.get_state().numpy().tobytes())
    if isinstance(value, dict):
        return [(picture(k, seen), picture(v, seen)) for k, v in value.items()]
    if isinstance(value, list | tuple):
        return [picture(v, seen) for v in value]
    return value if isinstance(value, int | float | str | bool | type(None)) else seen.setdefault(id(value), len(seen))


def whole(model: Net, optimizer: Any) -> Any:
    seen: dict[int, int] = {}
    states = (random.getstate(), np.random.get_state(), torch.get_rng_state())
    weights = [(p, p.grad) for p in model.parameters()]
    return picture([vars(optimizer), weights, [str(s) for s in states], [m.training for m in model.modules()]], seen)


def objects(model: Net, optimizer: Any) -> list[int]:
    """Identities of what must be the same object afterwards."""
    held = [optimizer.state, optimizer.param_groups, *optimizer.param_groups, *optimizer.state.values()]
    held += [v for s in optimizer.state.values() for v in s.values()]
    tensors = [t for p in model.parameters() for t in (p, p.grad)]
    return [id(o) for o in [*held, *tensors]] + [p.data_ptr() for p in model.parameters()]


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("steps", [0, 3])
def test_everything_is_put_back_bit_for_bit(name: str, steps: int) -> None:
    model, parameters, optimizer = setting(name, steps)
    before, same = whole(model, optimizer), objects(model, optimizer)
    for seed in (9, 20):
        with rehearsal(optimizer, model, parameters) as take:
            take(gradient(seed))
            assert not model.training
            assert whole(model, optimizer) != before, "nothing has happened: the test would be vacuous"
            torch.rand(3)
            random.random()
            np.random.rand()
        assert whole(model, optimizer) == before
        assert objects(model, optimizer) == same


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("steps", [0, 3])
def test_the_rehearsed_step_is_the_step_that_comes(name: str, steps: int) -> None:
    model, parameters, optimizer = setting(name, steps)
    start = parameters.flatten(parameters.weights)
    with rehearsal(optimizer, model, parameters) as take:
        take(gradient(9))
        rehearsed = parameters.flatten(parameters.weights)
    with rehearsal(optimizer, model, parameters) as take:
        take(gradient(10))
        other = parameters.flatten(parameters.weights)
    optimizer.step()
    taken = parameters.flatten(parameters.weights)
    assert torch.equal(rehearsed, taken)
    assert not torch.equal(other, taken)
    assert torch.equal(taken[32:], start[32:]), "the last layer has no gradient and no step"


@pytest.mark.parametrize("name", WITH_OWN_STATE)
def test_training_goes_on_as_without_rehearsals(name: str) -> None:
    ends = []
    for rehearsed in (False, True):
        model, parameters, optimizer = setting(name)
        for t in range(4):
            give(parameters, gradient(30 + t))
            if rehearsed:
                with rehearsal(optimizer, model, parameters) as take:
                    take(gradient(t))
            optimizer.step()
        ends.append(whole(model, optimizer))
    assert ends[0] == ends[1]


@pytest.mark.parametrize("name", ["AdamW", "Homemade"])
def test_mistake_6_weights_come_back_bit_for_bit_after_an_exception_too(name: str) -> None:
    model, parameters, optimizer = setting(name)
    before = whole(model, optimizer)
    start = parameters.flatten(parameters.weights)
    update = 1e-2 * gradient(1).to(start)
    assert not torch.equal((start - update) + update, start), "adding the update back would not"

    def interrupted() -> None:
        with rehearsal(optimizer, model, parameters) as take:
            take(gradient(1))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert whole(model, optimizer) == before


def test_the_wrapper_is_taken_off_and_the_scheduler_notices_nothing() -> None:
    model, parameters, optimizer = setting("AdamW scheduled", steps=0)

    class Wrapper:
        """Accelerate's wrapper in what matters: the torch optimizer lies in `optimizer`, its own step is not called."""

        def __init__(self) -> None:
            self.optimizer = optimizer

        def step(self) -> None:
            raise AssertionError("the wrapper's step was called")

    def called() -> bool:
        return bool(vars(optimizer).get("_opt_called", False))

    assert not called()
    with rehearsal(Wrapper(), model, parameters) as take:
        take(gradient(9))
        assert called(), "the scheduler's own counter moves inside"
    assert not called()


def test_step_hooks_do_not_hear_of_it() -> None:
    model, parameters, optimizer = setting("AdamW")
    heard: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: heard.append("before"))
    optimizer.register_step_post_hook(lambda *_: heard.append("after"))
    with rehearsal(optimizer, model, parameters) as take:
        take(gradient(1))
    assert heard == []
    optimizer.step()
    assert heard == ["before", "after"]


def test_gradients_keep_the_type_that_the_optimizer_gets() -> None:
    model, parameters, optimizer = setting("AdamW", steps=0)
    model.bfloat16()
    for weight in parameters.weights:
        weight.grad = torch.ones_like(weight)
    with rehearsal(optimizer, model, parameters) as take:
        take(gradient(1))
        assert all(w.grad is not None and w.grad.dtype == torch.bfloat16 for w in parameters.weights)


def test_an_attribute_that_cannot_be_copied_is_left_where_it_is() -> None:
    model, parameters, optimizer = setting("Lion")
    optimizer.lock = threading.Lock()
    lock = optimizer.lock
    with rehearsal(optimizer, model, parameters) as take:
        take(gradient(1))
    assert optimizer.lock is lock


def test_a_state_that_cannot_be_copied_is_named() -> None:
    model, parameters, optimizer = setting("Lion")
    optimizer.state[next(iter(model.parameters()))]["lock"] = threading.Lock()
    before = copy.copy(vars(optimizer))
    with (
        pytest.raises(MeasurementError, match=r"found Lion\.state that cannot be copied.*What to do"),
        rehearsal(optimizer, model, parameters),
    ):
        pass
    assert vars(optimizer) == before


@given(seed=st.integers(0, 10**6), scale=st.sampled_from([0.0, 1e-9, 1.0, 1e9]))
@settings(max_examples=8, deadline=None)
def test_any_gradient_can_be_rehearsed(seed: int, scale: float) -> None:
    model, parameters, optimizer = setting("Homemade", steps=1)
    before = whole(model, optimizer)
    with rehearsal(optimizer, model, parameters) as take:
        take(scale * gradient(seed))
    assert whole(model, optimizer) == before
