"""The trained parameters as one flat vector, and the Linear layers that hold them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import PrerequisiteError, describe


@dataclass(frozen=True, slots=True)
class TrainedLinear:
    """The weight of one trained `nn.Linear` without bias, and where it lies in the flat vector."""

    name: str
    """Dotted name of the module."""
    module: nn.Linear
    """The layer."""
    start: int
    """First element of its weight (out · in elements, row-major)."""

    @property
    def stop(self) -> int:
        """One past its last element."""
        return self.start + self.module.weight.numel()


@dataclass(frozen=True, slots=True)
class TrainedParameters:
    """Everything that trains, in the model's own order."""

    layers: tuple[TrainedLinear, ...]
    """All trained layers; together they are the whole flat vector."""

    @property
    def size(self) -> int:
        """Length of the flat vector."""
        return self.layers[-1].stop

    @property
    def weights(self) -> list[Tensor]:
        """The parameters, in order."""
        return [layer.module.weight for layer in self.layers]

    def flatten(self, tensors: list[Tensor]) -> Tensor:
        """(p,) one tensor per layer as a flat float64 copy on the CPU's or accelerator's own device."""
        return torch.cat([t.detach().reshape(-1).double() for t in tensors])

    def split(self, flat: Tensor) -> list[Tensor]:
        """The parts of a flat (p,) vector as views in the shapes of the weights, in order."""
        return [flat[layer.start : layer.stop].view(layer.module.weight.shape) for layer in self.layers]


def trained_parameters(model: nn.Module) -> TrainedParameters:
    """The layers whose weights train.

    Raises `PrerequisiteError` naming the first trained parameter that is not the weight of a Linear layer without bias
    (LoRA's matrices are) or belongs to the output head, whose own forward TRL's fused head never calls, or where
    nothing trains.
    """
    linear = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.Linear) and m.bias is None]
    owners = {id(m.weight): (name, m) for name, m in linear}
    apart = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None  # type: ignore[operator]
    if isinstance(head, nn.Module):
        apart |= {id(p) for p in head.parameters()}
    layers: list[TrainedLinear] = []
    start = 0
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if id(parameter) not in owners or id(parameter) in apart:
            remedy = (
                "train with LoRA on the blocks' linear layers: SFTTrainer(peft_config=LoraConfig(target_modules=...)), "
                "without DoRA, bias or modules_to_save."
            )
            expected = "weights of Linear layers without bias (LoRA) below the output head alone"
            raise PrerequisiteError(describe("trained parameters", name, expected, remedy))
        owner, module = owners[id(parameter)]
        layers.append(TrainedLinear(owner, module, start))
        start = layers[-1].stop
    if not layers:
        remedy = "give SFTTrainer a peft_config, or unfreeze the adapter."
        raise PrerequisiteError(describe("trained parameters", "none", "a LoRA adapter that trains", remedy))
    return TrainedParameters(tuple(layers))
