"""The rows' gradients of Linear layers as an independent package captures them in the same backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import tiny
import torch
from test_row_modes import MODES

from smda_monitor.instruments.parameters import trained_parameters
from smda_monitor.instruments.row_capture import RowCapture

gradient = pytest.importorskip("dattri_llm.gradient", reason="pip install dattri-llm")


# The witness hooks the first layers too, whose inputs need no gradient.
@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
@pytest.mark.parametrize("build", [MODES["LoRA"], MODES["full, untied"]], ids=["LoRA", "full"])
def test_dattri_captures_the_same(build: Callable[[], Any]) -> None:
    model = build().train()
    parameters = trained_parameters(model)
    capture = RowCapture(model, parameters)
    config = gradient.HookManagerConfig(linear_io=gradient.REGISTER_ALL)
    ids = torch.randint(4, tiny.VOCABULARY, (3, 8), generator=torch.Generator().manual_seed(0))
    with gradient.HookManager(model, config).collect(deregister_on_exit=True) as theirs:
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        witness = theirs.get_gradient().materialize().data
    _, _, found = capture.take()
    capture.remove()
    compared = 0
    for module in parameters.modules:
        if module.kind == "linear":
            tensor = parameters.tensors[module.own["weight"]]
            mine, other = found.dense(tensor.start, tensor.stop), witness[module.name]
            assert mine.shape == other.shape
            assert float((mine - other).norm() / other.norm()) < 1e-5
            compared += 1
    assert compared >= 3 * 7
