from __future__ import annotations

import pytest
import tiny
import torch
from torch import nn

from smda_monitor.instruments.start_weights import StartWeights


@pytest.mark.parametrize("adapter", [True, False])
def test_weights_are_put_back_bit_for_bit(adapter: bool) -> None:
    model = tiny.tiny_lora(tiny.tiny_llama()) if adapter else tiny.tiny_llama()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    start = StartWeights(model)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.1, weight_decay=0.1)
    model(input_ids=torch.arange(8)[None], labels=torch.arange(8)[None]).loss.backward()
    optimizer.step()
    moved = [name for name, p in model.named_parameters() if not torch.equal(p, before[name])]
    assert len(moved) == len(trained)
    start.put_back()
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert all(p.grad is None for p in model.parameters())
    assert {id(p) for p in trained} == {id(p) for p in model.parameters() if p.requires_grad}, "the same objects"


def test_buffers_are_put_back_and_what_does_not_train_is_not_kept() -> None:
    model = nn.Sequential(nn.Linear(4, 4).requires_grad_(False), nn.BatchNorm1d(4))
    start = StartWeights(model)
    model(torch.randn(9, 4))
    with torch.no_grad():
        model[0].weight.add_(1)  # type: ignore[operator]
    frozen = model[0].weight.clone()
    start.put_back()
    assert torch.equal(model[1].running_mean, torch.zeros(4))
    assert int(model[1].num_batches_tracked) == 0
    assert torch.equal(model[0].weight, frozen)
