"""A row alone against torch's own optimizers: the step on its gradient less the step on zero."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from smda_monitor.instruments.optimizer_step import read_step
from smda_monitor.instruments.parameters import TrainedParameters, trained_parameters
from smda_monitor.maths.lone_row import read_alone, read_parts_alone, row_norms
from smda_monitor.maths.probe_gradients import ChunkedRows, FlatGradients
from smda_monitor.maths.row_gradients import RowGradients
from smda_monitor.maths.step_map import clip_factor

N, C = 5, 7


class Columns:
    """C columns that are one matrix, in two blocks."""

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix

    def blocks(self, start: int, stop: int) -> Any:
        for places in (torch.tensor([3, 0, 5]), torch.tensor([1, 2, 4, 6])):
            yield places, self.matrix[places, start:stop]


def bench(kind: Any, **settings: Any) -> tuple[Any, TrainedParameters]:
    """An optimizer with a state of three steps, and a gradient in place for the next."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Linear(5, 4)).double()
    optimizer = kind(model.parameters(), **settings)
    for _ in range(4):
        for weight in model.parameters():
            weight.grad = torch.randn_like(weight)
        optimizer.step()
    return optimizer, trained_parameters(model)


def moved(optimizer: Any, parameters: TrainedParameters, gradient: Tensor) -> Tensor:
    """θ after torch's own step with `gradient`, on copies; float64."""
    twins = [w.detach().clone().requires_grad_() for w in parameters.weights]
    twin = type(optimizer)(twins, lr=0.1)
    state = copy.deepcopy(optimizer.state_dict())
    twin.load_state_dict(state)
    for weight, part in zip(twins, parameters.split(gradient), strict=True):
        weight.grad = part.double()
    twin.step()
    return torch.cat([w.detach().reshape(-1) for w in twins]).double()


@pytest.mark.parametrize("max_norm", [0.0, 0.5])
@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (torch.optim.AdamW, {"lr": 0.05, "weight_decay": 0.1}),
        (torch.optim.Adam, {"lr": 0.05, "weight_decay": 0.1, "amsgrad": True}),
        (torch.optim.SGD, {"lr": 0.2, "momentum": 0.9, "nesterov": True}),
        (torch.optim.SGD, {"lr": 1e-4}),
    ],
    ids=["AdamW", "amsgrad", "SGD with momentum", "plain SGD"],
)
def test_a_row_alone_is_torchs_step_with_it_less_torchs_step_on_zero(
    kind: Any, settings: dict[str, Any], max_norm: float
) -> None:
    optimizer, parameters = bench(kind, **settings)
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(N, parameters.size, generator=generator, dtype=torch.float64)
    columns = torch.randn(C, parameters.size, generator=generator)
    norms = row_norms(RowGradients.of(rows))
    assert norms == pytest.approx(rows.double().norm(dim=1).tolist(), rel=1e-12)
    factors = [clip_factor(norm, max_norm) for norm in norms]
    own = ChunkedRows((((0, 1), RowGradients.of(columns[:2])),))
    found, on_own = read_alone(
        RowGradients.of(rows), factors, read_step(optimizer, parameters), Columns(columns), C, own, [3, 1]
    )
    nothing = moved(optimizer, parameters, torch.zeros(parameters.size))
    truth = torch.stack([moved(optimizer, parameters, f * row) - nothing for f, row in zip(factors, rows, strict=True)])
    expected = truth @ columns.double().T
    assert torch.allclose(found, expected, rtol=2e-5, atol=float(expected.abs().max()) * 2e-6)
    assert torch.allclose(on_own[[3, 1]], (truth[[3, 1]] * columns[:2].double()).sum(1), rtol=1e-3, atol=1e-6)
    assert bool(on_own[[0, 2, 4]].isnan().all())
    unclipped = torch.stack([moved(optimizer, parameters, row) - nothing for row in rows]) @ columns.double().T
    assert (max_norm == 0) == torch.allclose(found, unclipped, rtol=1e-3), "clipping bites where it is on"


def test_columns_that_come_in_parts_are_read_as_those_that_lie_together() -> None:
    optimizer, parameters = bench(torch.optim.AdamW, lr=0.05)
    step, generator = read_step(optimizer, parameters), torch.Generator().manual_seed(1)
    rows = RowGradients.of(torch.randn(N, parameters.size, generator=generator, dtype=torch.float64))
    columns, factors = torch.randn(C, parameters.size, generator=generator), [1.0, 0.5, 1.0, 0.1, 1.0]
    whole, _ = read_alone(rows, factors, step, FlatGradients(columns), C)
    parts = read_parts_alone(rows, factors, step, (FlatGradients(part) for part in columns.split([3, 1, 3])))
    assert torch.allclose(parts, whole, rtol=1e-5, atol=float(whole.abs().max()) * 1e-6)
    assert read_parts_alone(rows, factors, step, []).shape == (N, 0)
