"""A measurement that training cannot notice: modes, gradients and random state are as before, bit for bit."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from .sharded import put_away

PACKS = "support_avx512bf16_for_cpu"
"""With this attribute a 4-bit layer of bitsandbytes packs its weights, for good, when a CPU runs it in eval mode."""


@contextmanager
def quiet(model: nn.Module) -> Iterator[None]:
    """Puts `model` in eval mode and restores, also after an exception: every module's own mode and the random state of
    Python, NumPy, torch and all CUDA and MPS devices. Weights in 4 bit keep their form. Parameters and ``.grad`` are
    left to the caller not to touch."""
    modes = [(module, module.training) for module in model.modules()]
    packing = [module for module in model.modules() if getattr(module, PACKS, False)]
    python_state, numpy_state, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda_states = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    mps_state = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    try:
        model.eval()
        for module in packing:
            setattr(module, PACKS, False)
        yield
    finally:
        put_away(model)
        for module, mode in modes:
            module.training = mode
        for module in packing:
            setattr(module, PACKS, True)
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch.set_rng_state(torch_state)
        if cuda_states:
            torch.cuda.set_rng_state_all(cuda_states)
        if mps_state is not None:
            torch.mps.set_rng_state(mps_state)
