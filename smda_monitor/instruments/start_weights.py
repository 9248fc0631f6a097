"""The weights with which every training of a series begins, put back bit for bit."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class StartWeights:
    """Keeps a copy of all that can change in `model` by training: parameters that train, and buffers."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._kept: dict[str, Tensor] = {name: value.detach().clone() for name, value in _changing(model).items()}

    @torch.no_grad()
    def put_back(self) -> None:
        """Gives the model these weights again, and takes its gradients away."""
        for name, value in _changing(self._model).items():
            value.copy_(self._kept[name])
        self._model.zero_grad(set_to_none=True)


def _changing(model: nn.Module) -> dict[str, Tensor]:
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    return {**trained, **dict(model.named_buffers())}
