"""The step maps against torch's optimizers themselves, and the push against really stepping without the row."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from taken import across
from torch import Tensor, nn

from smda_monitor.instruments.optimizer_step import read_step
from smda_monitor.instruments.parameters import TrainedParameters, trained_parameters
from smda_monitor.maths.adam import AdamStep
from smda_monitor.maths.sgd import SgdStep
from smda_monitor.maths.step_map import StepMap, WholeStep, clip_factor, push_directions

ADAM: list[dict[str, Any]] = [
    {"lr": 1e-2, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.1},
    {"lr": 3e-3, "betas": (0.8, 0.95), "eps": 1e-4, "weight_decay": 0.0},
]


def sgd(**options: Any) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """SGD with another learning rate and no decay in the second group."""
    return torch.optim.SGD, {"lr": 1e-2, "weight_decay": 0.1, **options}, {"lr": 3e-3, **options}


def adam(kind: Any, **options: Any) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """Adam's family with both groups of `ADAM`."""
    return kind, {**ADAM[0], **options}, {**ADAM[1], **options}


OPTIMIZERS: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "AdamW": adam(torch.optim.AdamW, foreach=False),
    "AdamW foreach": adam(torch.optim.AdamW, foreach=True),
    "AdamW fused": adam(torch.optim.AdamW, fused=True),
    "AdamW amsgrad": adam(torch.optim.AdamW, amsgrad=True),
    "AdamW maximize": adam(torch.optim.AdamW, maximize=True),
    "Adam": adam(torch.optim.Adam, foreach=False),
    "Adam foreach": adam(torch.optim.Adam, foreach=True),
    "Adam fused": adam(torch.optim.Adam, fused=True),
    "Adam fused amsgrad": adam(torch.optim.Adam, fused=True, amsgrad=True),
    "Adam decoupled": adam(torch.optim.Adam, decoupled_weight_decay=True),
    "SGD": sgd(foreach=False),
    "SGD foreach": sgd(foreach=True),
    "SGD fused": sgd(fused=True),
    "SGD maximize": sgd(maximize=True),
    "SGD momentum": sgd(momentum=0.9),
    "SGD momentum foreach": sgd(momentum=0.9, foreach=True),
    "SGD dampening": sgd(momentum=0.9, dampening=0.4),
    "SGD Nesterov fused": sgd(momentum=0.8, nesterov=True, fused=True),
    "SGD Nesterov maximize": sgd(momentum=0.8, nesterov=True, maximize=True),
}
"""Every optimizer whose step is known, with its options: class, first group, second group."""


def flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([t.detach().reshape(-1).double() for t in tensors])


@dataclass
class Bench:
    """Two layers in two groups, the second one's parameters first in the optimizer."""

    parameters: TrainedParameters
    optimizer: torch.optim.Optimizer

    @property
    def weights(self) -> list[Tensor]:
        return self.parameters.weights

    def clipped(self, rows: Tensor, max_norm: float) -> Tensor:
        """Gives the optimizer the summed gradient of `rows` (n, p), clipped by torch itself."""
        total = rows.sum(0)
        for layer, weight in zip(self.parameters.tensors, self.weights, strict=True):
            weight.grad = total[layer.start : layer.stop].reshape(weight.shape).to(weight.dtype)
        if max_norm > 0:
            torch.nn.utils.clip_grad_norm_(self.weights, max_norm)
        return flat([w.grad for w in self.weights if w.grad is not None])

    def step(self) -> Tensor:
        before = flat(self.weights)
        self.optimizer.step()
        return flat(self.weights) - before


def bench(dtype: torch.dtype, name: str) -> Bench:
    return bench_of(dtype, *OPTIMIZERS[name])


def bench_of(dtype: torch.dtype, kind: Any, first: dict[str, Any], second: dict[str, Any]) -> Bench:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4, bias=False), nn.Linear(4, 3, bias=False)).to(dtype)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(0.05)
            weight.grad = torch.zeros_like(weight)
    one, two = model.parameters()
    return Bench(trained_parameters(model), kind([{"params": [two], **second}, {"params": [one], **first}]))


def gradients(step: int, n: int = 4, p: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(100 + step)
    sizes = 10 ** (2 * torch.rand(p, generator=generator, dtype=torch.float64) - 1.5)
    return sizes * torch.randn(n, p, generator=generator, dtype=torch.float64)


def pushed(step: WholeStep, total: Tensor, rows: Tensor, clip: float, without: Tensor) -> Tensor:
    """(n, p) pushes of `rows` in a step with the gradient `total`, clipped by `clip`, and `without` each of them."""
    found = []
    for a, (b, part) in zip((0, *step.stops[:-1]), step.parts, strict=True):
        update = part.update(clip * total[a:b])
        found.append(push_directions(part, update, total[a:b], rows[:, a:b], without))
    return torch.cat(found, dim=1)


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("max_norm", [0.0, 0.5])
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float64, 1e-12)])
def test_the_map_is_the_optimizers_step(dtype: torch.dtype, tolerance: float, name: str, max_norm: float) -> None:
    mine = bench(dtype, name)
    remembers = "Adam" in name or "momentum" in name or "dampening" in name or "Nesterov" in name
    for t in range(1, 6):
        for group in mine.optimizer.param_groups:
            group["lr"] *= 0.9  # as a schedule would
        rows = gradients(t)
        clipped = mine.clipped(rows, max_norm)
        step = read_step(mine.optimizer, mine.parameters)
        found = across(step, "update", clipped)
        factor = clip_factor(float(rows.sum(0).norm()), max_norm)
        shares, history = factor * across(step, "share_scale", clipped) * rows, across(step, "history", clipped)
        decay, taken = across(step, "decay", clipped), mine.step()
        assert relative(found, taken) < tolerance
        assert relative(shares.sum(0) + history + decay, taken) < 2 * tolerance
        assert bool(decay.any())
        if t == 1 or not remembers:
            assert not bool(history.any())
        else:
            assert float(history.norm()) > 0.1 * float(shares.sum(0).norm()), "history is not small"


@pytest.mark.parametrize("max_norm", [0.0, 1e6, 0.5], ids=["no clipping", "idle", "biting"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_push_is_the_step_with_the_row_less_the_step_without_it(name: str, max_norm: float) -> None:
    mine = bench(torch.float64, name)
    for t in range(1, 4):
        rows = gradients(t)
        total = rows.sum(0)
        step = read_step(mine.optimizer, mine.parameters)
        clip = clip_factor(float(total.norm()), max_norm)
        for i, row in enumerate(rows):
            others = copy.deepcopy(mine)
            others.clipped(torch.cat([rows[:i], rows[i + 1 :]]), max_norm)
            twin = copy.deepcopy(mine)
            twin.clipped(rows, max_norm)
            expected = twin.step() - others.step()
            without = clip_factor(float((total - row).norm()), max_norm)
            found = pushed(step, total, row[None], clip, as_factors(without))[0]
            assert relative(found, expected) < 1e-10
            if max_norm == 0.5:
                unaware = pushed(step, total, row[None], 1.0, as_factors(1.0))[0]
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


def as_factors(*factors: float) -> Tensor:
    return torch.tensor(factors, dtype=torch.float64)


P = 6
Case = tuple[str, list[list[float]], list[tuple[float, ...]], float]
VECTOR = st.lists(st.floats(-2, 2), min_size=P, max_size=P)
NUMBERS = st.tuples(
    st.floats(1e-5, 1e-1), st.floats(0, 0.99), st.floats(0.5, 0.9999), st.floats(0, 0.5), st.integers(1, 500)
)
CASES: st.SearchStrategy[Case] = st.tuples(
    st.sampled_from(["AdamW", "Adam", "amsgrad", "SGD", "Nesterov"]),
    st.lists(VECTOR, min_size=5, max_size=7),
    st.lists(NUMBERS, min_size=2, max_size=2),
    st.sampled_from([0.0, 0.5, 1e6]),
)
"""Numbers for `built`: records are not made inside a strategy, since their shape checks draw random numbers."""


def built(case: Case) -> tuple[WholeStep, Tensor, float]:
    """(a map in two parts, two to four rows (n, 6), max_norm)."""
    kind, vectors, numbers, max_norm = case
    theta, m, v, *rows = torch.tensor(vectors, dtype=torch.float64)
    v = 0.01 + v.square()
    parts: list[tuple[int, StepMap]] = []
    for (start, stop), (lr, a, b, decay, count) in zip(((0, 2), (2, P)), numbers, strict=True):
        here, t = slice(start, stop), int(count)
        climbs = t % 2 == 0
        part: StepMap
        if kind in ("SGD", "Nesterov"):
            part = SgdStep(theta[here], m[here], lr, a, b, decay, kind == "Nesterov", climbs)
        else:
            largest = v[here].flip(0) if kind == "amsgrad" else None
            part = AdamStep(theta[here], m[here], v[here], largest, lr, a, b, 1e-6, decay, kind != "Adam", climbs, t)
        parts.append((stop, part))
    return WholeStep(tuple(parts)), torch.stack(rows), max_norm


def pushes(step: WholeStep, rows: Tensor, max_norm: float) -> Tensor:
    total = rows.sum(0)
    without = [clip_factor(float((total - row).norm()), max_norm) for row in rows]
    return pushed(step, total, rows, clip_factor(float(total.norm()), max_norm), as_factors(*without))


def shares(step: WholeStep, rows: Tensor, max_norm: float) -> Tensor:
    total = rows.sum(0)
    factor = clip_factor(float(total.norm()), max_norm)
    return factor * across(step, "share_scale", factor * total) * rows


@settings(max_examples=60, deadline=None)
@given(CASES)
def test_laws(case: Case) -> None:
    step, rows, max_norm = built(case)
    total = rows.sum(0)
    clipped = clip_factor(float(total.norm()), max_norm) * total
    share, push = shares(step, rows, max_norm), pushes(step, rows, max_norm)
    close = {"rtol": 1e-9, "atol": 1e-12}
    # Sum: nothing of the update is lost.
    whole = share.sum(0) + across(step, "history", clipped) + across(step, "decay", clipped)
    assert torch.allclose(whole, across(step, "update", clipped), **close)
    # Symmetry: a row that stands twice gets the same twice.
    twice = torch.cat([rows, rows[:1]])
    for found in (shares(step, twice, max_norm), pushes(step, twice, max_norm)):
        assert torch.allclose(found[0], found[-1], **close)
    # Dummy: a row without gradient gets nothing, and changes nothing for the others.
    idle = torch.cat([rows, torch.zeros(1, P).double()])
    for found, expected in ((shares(step, idle, max_norm), share), (pushes(step, idle, max_norm), push)):
        assert not bool(found[-1].any())
        assert torch.allclose(found[:-1], expected, **close)
    # Order.
    assert torch.allclose(shares(step, rows.flip(0), max_norm), share.flip(0), **close)
    assert torch.allclose(pushes(step, rows.flip(0), max_norm), push.flip(0), **close)
    # A row in two halves has the share of the whole.
    halves = torch.cat([rows[:1] / 2, rows[:1] / 2, rows[1:]])
    assert torch.allclose(shares(step, halves, max_norm)[:2].sum(0), share[0], **close)


@settings(max_examples=60, deadline=None)
@given(CASES, st.floats(0.1, 10))
def test_scale(case: Case, by: float) -> None:
    """A learning rate `by` times as large makes every part so; gradients, state and ε `by` times as large change
    nothing with Adam, which divides by their size, and make all parts `by` times as large with SGD."""
    step, rows, max_norm = built(case)
    quick = WholeStep(tuple((stop, replace(part, lr=part.lr * by)) for stop, part in step.parts))  # type: ignore[type-var, attr-defined]
    for part in (shares, pushes):
        assert torch.allclose(part(quick, rows, max_norm), by * part(step, rows, max_norm), rtol=1e-9, atol=1e-12)
    larger = WholeStep(tuple((stop, _scaled(part, by)) for stop, part in step.parts))
    gain = by if isinstance(step.parts[0][1], SgdStep) else 1.0
    for part in (shares, pushes):
        assert torch.allclose(part(larger, by * rows, 0.0), gain * part(step, rows, 0.0), rtol=1e-7, atol=1e-10)


def _scaled(part: Any, by: float) -> Any:
    """The state after gradients that were `by` times as large all along; coupled decay is part of the gradient."""
    if isinstance(part, SgdStep):
        assert part.buffer is not None
        return replace(part, buffer=by * part.buffer, weight_decay=by * part.weight_decay)
    largest = None if part.v_max is None else by**2 * part.v_max
    decay = part.weight_decay if part.decoupled else by * part.weight_decay
    return replace(part, m=by * part.m, v=by**2 * part.v, v_max=largest, eps=by * part.eps, weight_decay=decay)


def test_decay_alone_moves_parameters_without_gradient() -> None:
    theta, none = torch.tensor([2.0, -1.0]).double(), torch.zeros(2).double()
    step = AdamStep(theta, none, none, None, 0.1, 0.9, 0.999, 1e-8, 0.5, decoupled=True, maximize=False, t=1)
    assert step.update(none).tolist() == pytest.approx([-0.1, 0.05])


BUFFERS = {"Adam": "exp_avg", "SGD": "momentum_buffer"}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_a_step_leaves_in_the_momentum_buffer(name: str) -> None:
    """b_t = retained·b_{t−1} + kept·g, against the optimizer's own buffer; coupled decay is in it, too."""
    mine = bench(torch.float64, name)
    state = BUFFERS["SGD" if name.startswith("SGD") else "Adam"]

    def buffer() -> Tensor:
        held = [mine.optimizer.state.get(w, {}).get(state) for w in mine.weights]
        return flat([torch.zeros_like(w) if b is None else b for b, w in zip(held, mine.weights, strict=True)])

    for t in range(1, 5):
        clipped = mine.clipped(gradients(t), 0.5)
        step, before, theta = read_step(mine.optimizer, mine.parameters), buffer(), flat(mine.weights)
        history = torch.cat(
            [part.momentum_scale(clipped[a:b]) * before[a:b] for _, a, b, part in step.slabs(1000)]
        )  # fmt: skip
        assert torch.allclose(history, across(step, "history", clipped), rtol=1e-12, atol=0)
        mine.step()
        for _, a, b, part in step.slabs(1000):
            assert isinstance(part, AdamStep | SgdStep)
            coupled = part.weight_decay if isinstance(part, SgdStep) or not part.decoupled else 0.0
            decay = coupled * abs(part.kept) * theta[a:b]
            expected = part.retained * before[a:b] + part.kept * clipped[a:b] + decay
            assert torch.allclose(expected, buffer()[a:b], rtol=1e-10, atol=1e-14)
            assert (part.kept != 0) == bool(buffer()[a:b].any())


@settings(max_examples=40, deadline=None)
@given(CASES, st.integers(1, P + 2))
def test_a_cut_step_is_that_part_of_the_whole(case: Case, longest: int) -> None:
    step, rows, _ = built(case)
    total = rows.sum(0)
    slabs = list(step.slabs(longest))
    assert [a for _, a, _, _ in slabs] == [0, *(b for _, _, b, _ in slabs[:-1])], "no gap, no overlap"
    assert slabs[-1][2] == P
    assert all(0 < b - a <= longest for _, a, b, _ in slabs)
    assert all(b <= step.parts[number][0] for number, _, b, _ in slabs), "a range lies in one part"
    for way in ("update", "share_scale", "history", "decay"):
        whole = across(step, way, total)
        pieces = torch.cat([getattr(part, way)(total[a:b]) for _, a, b, part in slabs])
        assert torch.allclose(pieces, whole, rtol=1e-12, atol=0), way
    finer = step.cut_at([longest, 3, P])
    assert finer.stops == tuple(sorted({*step.stops, 3, min(longest, P)}))
    assert torch.allclose(across(finer, "update", total), across(step, "update", total), rtol=1e-12, atol=0)
    for number, _, _, part in slabs:
        whole_part = step.parts[number][1]
        assert (part.kept, part.retained) == (whole_part.kept, whole_part.retained)
