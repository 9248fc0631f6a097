"""The step map against torch.optim.AdamW itself, and the push against really stepping without the row."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from smda_monitor.instruments.optimizer_state import read_adamw
from smda_monitor.instruments.parameters import TrainedParameters, trained_parameters
from smda_monitor.maths.adamw import AdamWSegment, AdamWState, StepMap, clip_factor, push_direction

GROUPS: list[dict[str, Any]] = [
    {"lr": 1e-2, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.1},
    {"lr": 3e-3, "betas": (0.8, 0.95), "eps": 1e-4, "weight_decay": 0.0},
]
IMPLEMENTATIONS = {"single": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}


def flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([t.detach().reshape(-1).double() for t in tensors])


@dataclass
class Bench:
    """Two layers in two groups, the second one's parameters first in the optimizer."""

    parameters: TrainedParameters
    optimizer: torch.optim.AdamW

    @property
    def weights(self) -> list[Tensor]:
        return self.parameters.weights

    def clipped(self, rows: Tensor, max_norm: float) -> Tensor:
        """Gives the optimizer the summed gradient of `rows` (n, p), clipped by torch itself."""
        total = rows.sum(0)
        for layer, weight in zip(self.parameters.layers, self.weights, strict=True):
            weight.grad = total[layer.start : layer.stop].reshape(weight.shape).to(weight.dtype)
        if max_norm > 0:
            torch.nn.utils.clip_grad_norm_(self.weights, max_norm)
        return flat([w.grad for w in self.weights if w.grad is not None])

    def step(self) -> Tensor:
        before = flat(self.weights)
        self.optimizer.step()
        return flat(self.weights) - before


def bench(dtype: torch.dtype, **implementation: Any) -> Bench:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4, bias=False), nn.Linear(4, 3, bias=False)).to(dtype)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(0.05)
    one, two = model.parameters()
    groups = [{"params": [two], **GROUPS[1]}, {"params": [one], **GROUPS[0]}]
    return Bench(trained_parameters(model), torch.optim.AdamW(groups, **implementation))


def gradients(step: int, n: int = 4, p: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(100 + step)
    sizes = 10 ** (2 * torch.rand(p, generator=generator, dtype=torch.float64) - 1.5)
    return sizes * torch.randn(n, p, generator=generator, dtype=torch.float64)


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("max_norm", [0.0, 0.5])
@pytest.mark.parametrize("name", IMPLEMENTATIONS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_the_map_is_torchs_step(dtype: torch.dtype, tolerance: float, name: str, max_norm: float) -> None:
    mine = bench(dtype, **IMPLEMENTATIONS[name])
    for t in range(1, 6):
        for group in mine.optimizer.param_groups:
            group["lr"] *= 0.9  # as a schedule would
        clipped = mine.clipped(gradients(t), max_norm)
        state = read_adamw(mine.optimizer, mine.parameters)
        assert [s.t for s in state.segments] == [t, t]
        found = StepMap.of(state).update(clipped)
        step = mine.step()
        assert relative(found, step) < tolerance
        if t > 1:
            forgetful = AdamWState(state.theta, torch.zeros_like(state.m), state.v, state.segments)
            assert relative(StepMap.of(forgetful).update(clipped), step) > 0.1, "the state matters"


@pytest.mark.parametrize("max_norm", [0.0, 0.5])
def test_shares_history_and_decay_are_the_update(max_norm: float) -> None:
    mine = bench(torch.float64)
    for t in range(1, 5):
        rows = gradients(t)
        clipped = mine.clipped(rows, max_norm)
        step = StepMap.of(read_adamw(mine.optimizer, mine.parameters))
        factor = clip_factor(float(rows.sum(0).norm()), max_norm)
        shares = step.share_scale(clipped, factor) * rows
        parts = shares.sum(0) + step.history(clipped) + step.decay
        assert relative(parts, mine.step()) < 1e-12
        if t > 1:
            assert float(step.history(clipped).norm()) > 0.1 * float(shares.sum(0).norm()), "history is not small"


@pytest.mark.parametrize("max_norm", [0.0, 1e6, 0.5], ids=["no clipping", "idle", "biting"])
def test_push_is_the_step_with_the_row_less_the_step_without_it(max_norm: float) -> None:
    mine = bench(torch.float64)
    for t in range(1, 5):
        rows = gradients(t)
        total = rows.sum(0)
        step = StepMap.of(read_adamw(mine.optimizer, mine.parameters))
        update = step.update(clip_factor(float(total.norm()), max_norm) * total)
        for i, row in enumerate(rows):
            others = copy.deepcopy(mine)
            others.clipped(torch.cat([rows[:i], rows[i + 1 :]]), max_norm)
            twin = copy.deepcopy(mine)
            twin.clipped(rows, max_norm)
            expected = twin.step() - others.step()
            found = push_direction(step, update, total, row, max_norm)
            assert relative(found, expected) < 1e-10
            if max_norm == 0.5:
                unaware = push_direction(step, step.update(total), total, row, 0.0)
                assert relative(unaware, expected) > 0.01, "clipping matters"
        mine.clipped(rows, max_norm)
        mine.step()


@settings(max_examples=50, deadline=None)
@given(st.floats(0, 1e3), st.floats(0.01, 100))
def test_clip_factor_is_torchs(norm: float, max_norm: float) -> None:
    weight = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    weight.grad = torch.tensor([norm, 0.0, 0.0], dtype=torch.float64)
    torch.nn.utils.clip_grad_norm_([weight], max_norm)
    assert clip_factor(norm, max_norm) * norm == pytest.approx(float(weight.grad[0]), rel=1e-12, abs=1e-300)
    assert clip_factor(norm, 0.0) == 1.0


P = 6


Case = tuple[list[list[float]], list[tuple[float, ...]], float]
VECTOR = st.lists(st.floats(-2, 2), min_size=P, max_size=P)
SEGMENT = st.tuples(
    st.floats(1e-5, 1e-1), st.floats(0, 0.99), st.floats(0.5, 0.9999), st.floats(0, 0.5), st.integers(1, 500)
)
CASES: st.SearchStrategy[Case] = st.tuples(
    st.lists(VECTOR, min_size=5, max_size=7),
    st.lists(SEGMENT, min_size=2, max_size=2),
    st.sampled_from([0.0, 0.5, 1e6]),
)
"""Numbers for `built`: records are not made inside a strategy, since their shape checks draw random numbers."""


def built(case: Case) -> tuple[AdamWState, Tensor, float]:
    """(a state in two segments, two to four rows (n, 6), max_norm)."""
    vectors, segments, max_norm = case
    theta, m, v, *rows = torch.tensor(vectors, dtype=torch.float64)
    parts = [
        AdamWSegment(start, stop, lr, beta1, beta2, 1e-6, decay, int(t))
        for (start, stop), (lr, beta1, beta2, decay, t) in zip(((0, 2), (2, P)), segments, strict=True)
    ]
    return AdamWState(theta, m, 0.01 + v.square(), tuple(parts)), torch.stack(rows), max_norm


def pushes(state: AdamWState, rows: Tensor, max_norm: float) -> Tensor:
    step, total = StepMap.of(state), rows.sum(0)
    update = step.update(clip_factor(float(total.norm()), max_norm) * total)
    return torch.stack([push_direction(step, update, total, row, max_norm) for row in rows])


def shares(state: AdamWState, rows: Tensor, max_norm: float) -> Tensor:
    step, total = StepMap.of(state), rows.sum(0)
    factor = clip_factor(float(total.norm()), max_norm)
    return step.share_scale(factor * total, factor) * rows


@settings(max_examples=40, deadline=None)
@given(CASES)
def test_laws(case: Case) -> None:
    state, rows, max_norm = built(case)
    step, total = StepMap.of(state), rows.sum(0)
    clipped = clip_factor(float(total.norm()), max_norm) * total
    share, push = shares(state, rows, max_norm), pushes(state, rows, max_norm)
    close = {"rtol": 1e-9, "atol": 1e-12}
    # Sum: nothing of the update is lost.
    whole = share.sum(0) + step.history(clipped) + step.decay
    assert torch.allclose(whole, step.update(clipped), **close)
    # Symmetry: a row that stands twice gets the same twice.
    twice = torch.cat([rows, rows[:1]])
    for found in (shares(state, twice, max_norm), pushes(state, twice, max_norm)):
        assert torch.allclose(found[0], found[-1], **close)
    # Dummy: a row without gradient gets nothing, and changes nothing for the others.
    idle = torch.cat([rows, torch.zeros(1, P).double()])
    for found, expected in ((shares(state, idle, max_norm), share), (pushes(state, idle, max_norm), push)):
        assert not bool(found[-1].any())
        assert torch.allclose(found[:-1], expected, **close)
    # Order.
    assert torch.allclose(shares(state, rows.flip(0), max_norm), share.flip(0), **close)
    assert torch.allclose(pushes(state, rows.flip(0), max_norm), push.flip(0), **close)


@settings(max_examples=40, deadline=None)
@given(CASES, st.floats(0.1, 10))
def test_scale(case: Case, by: float) -> None:
    """A learning rate `by` times as large makes every part so; gradients, state and ε `by` times as large change
    neither share nor push, since Adam divides by their size."""
    state, rows, max_norm = built(case)
    faster = [AdamWSegment(s.start, s.stop, s.lr * by, *_rest(s)) for s in state.segments]
    quick = AdamWState(state.theta, state.m, state.v, tuple(faster))
    for part in (shares, pushes):
        assert torch.allclose(part(quick, rows, max_norm), by * part(state, rows, max_norm), rtol=1e-9, atol=1e-12)
    larger = [
        AdamWSegment(s.start, s.stop, s.lr, s.beta1, s.beta2, s.eps * by, s.weight_decay, s.t) for s in state.segments
    ]
    big = AdamWState(state.theta, by * state.m, by**2 * state.v, tuple(larger))
    for part in (shares, pushes):
        assert torch.allclose(part(big, by * rows, 0.0), part(state, rows, 0.0), rtol=1e-7, atol=1e-10)


def _rest(s: AdamWSegment) -> tuple[float, float, float, float, int]:
    return s.beta1, s.beta2, s.eps, s.weight_decay, s.t


def test_decay_alone_moves_parameters_without_gradient() -> None:
    state = AdamWState(
        torch.tensor([2.0, -1.0]).double(), torch.zeros(2).double(), torch.zeros(2).double(),
        (AdamWSegment(0, 2, 0.1, 0.9, 0.999, 1e-8, 0.5, 1),),
    )  # fmt: skip
    update = StepMap.of(state).update(torch.zeros(2).double())
    assert update.tolist() == pytest.approx([-0.1, 0.05])
