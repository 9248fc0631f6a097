"""The trained parameters as one flat vector, the modules that hold them, and how the rows' gradients are captured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..errors import PrerequisiteError, describe
from .heap import zeros_apart
from .sharded import put_away, whole
from .svd_rows import is_svd, svd_refusal, used_by

Kind = Literal["linear", "conv1d", "embedding", "magnitude", "svd", "replayed"]
"""How a module's rows are captured: from the factors of its matrix (``conv1d``: stored transposed), of its table,
by DoRA's or AdaLoRA's own formula, or by running it again on each row."""


@dataclass(frozen=True, slots=True)
class TrainedTensor:
    """One trained parameter and where it lies in the flat vector; one that several modules share is one."""

    name: str
    """Dotted name of the parameter, under the first module that holds it."""
    parameter: nn.Parameter
    """The parameter itself."""
    start: int
    """First element (row-major)."""
    stop: int
    """One past its last element."""
    per_token: int
    """Numbers that one token's factors hold; 0 where its rows are always formed."""
    captured: tuple[str, ...]
    """How, by each module that holds it: a `Kind`, ``head`` for the output head."""

    def formed(self, tokens: int) -> bool:
        """Whether the gradient of a row of so many tokens is no larger formed than as factors."""
        return self.per_token == 0 or self.parameter.numel() <= tokens * self.per_token


@dataclass(frozen=True, slots=True)
class TrainedModule:
    """One module with trained parameters of its own."""

    name: str
    """Dotted name."""
    module: nn.Module
    """The module, which has no children, or is AdaLoRA's layer."""
    kind: Kind
    """How its rows are captured."""
    own: dict[str, int]
    """Number among the trained tensors of each of its trained parameters, by the name that it has in the module."""
    checkpointing: nn.Module | None
    """The transformers layer around it that may be run again in the backward; None where none is."""


@dataclass(frozen=True, slots=True)
class TrainedHead:
    """The output head where its weight or bias trains: TRL's fused head never calls its forward."""

    module: nn.Module
    """The causal model's output embeddings; behind a wrapper of PEFT it still has ``weight`` and ``bias``."""
    weight: int | None
    """Number of the weight among the trained tensors; None where it is frozen."""
    bias: int | None
    """Number of the bias; None where there is none or it is frozen."""
    scale: float
    """What the model multiplies its logits by."""
    softcap: float | None
    """What it caps them at; None where it does not."""


@dataclass(frozen=True, slots=True)
class TrainedParameters:
    """Everything that trains, in the model's own order."""

    tensors: tuple[TrainedTensor, ...]
    """All trained parameters; together they are the whole flat vector."""
    modules: tuple[TrainedModule, ...]
    """The modules that hold them."""
    head: TrainedHead | None
    """The output head; None where it is frozen."""

    @property
    def size(self) -> int:
        """Length of the flat vector."""
        return self.tensors[-1].stop

    @property
    def weights(self) -> list[Tensor]:
        """The parameters, in order."""
        return [tensor.parameter for tensor in self.tensors]

    def row_size(self, tokens: int) -> int:
        """Numbers that the gradient of a row of so many tokens is kept in."""
        return sum(t.stop - t.start if t.formed(tokens) else tokens * t.per_token for t in self.tensors)

    @property
    def bounds(self) -> list[tuple[int, int]]:
        """(start, stop) of every parameter."""
        return [(tensor.start, tensor.stop) for tensor in self.tensors]

    def flatten(self, tensors: list[Tensor]) -> Tensor:
        """(p,) one tensor per parameter as a flat copy in their own type, on their device."""
        return flattened(tensors)

    def gradient(self) -> Tensor:
        """(p,) the parameters' ``.grad`` as a flat copy; 0 where there is none."""
        return self.flatten([w.grad if w.grad is not None else torch.zeros_like(w) for w in self.weights])

    def split(self, flat: Tensor) -> list[Tensor]:
        """The parts of a flat (p,) vector as views in the shapes of the weights, in order."""
        return [flat[t.start : t.stop].view(t.parameter.shape) for t in self.tensors]


def flattened(tensors: Sequence[Tensor]) -> Tensor:
    """One after the other, flat, as a copy that may be kept from step to step."""
    flat = [whole(t.detach()).reshape(-1) for t in tensors]
    kind = reduce(torch.promote_types, (t.dtype for t in flat))
    return torch.cat(flat, out=zeros_apart(sum(map(len, flat)), device=flat[0].device, dtype=kind))


def trained_parameters(model: nn.Module) -> TrainedParameters:
    """What trains in `model`.

    Raises `PrerequisiteError` naming the first trained parameter whose gradient by row cannot be captured (`_refusal`),
    or where nothing trains.
    """
    put_away(model)
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None  # type: ignore[operator]
    modules = dict(model.named_modules())
    owners: dict[int, list[tuple[str, str]]] = {}
    for name, module in modules.items():
        for own, parameter in module.named_parameters(recurse=False):
            owners.setdefault(id(parameter), []).append(used_by(modules, name, own))
    tensors: list[TrainedTensor] = []
    holding: dict[str, dict[str, int]] = {}
    start = 0
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        per_token, captured = 0, []
        for owner, own in owners[id(parameter)]:
            if reason := _refusal(modules, owner, own, head):
                raise PrerequisiteError(_refused(name, reason))
            kind = _kind(modules[owner])
            at_head = isinstance(head, nn.Module) and kind == "linear" and parameter is getattr(head, "weight", None)
            captured.append("head" if at_head else kind)
            holding.setdefault(owner, {})[own] = len(tensors)
            if own == "weight" and kind in ("linear", "conv1d", "embedding"):
                by_line = at_head or kind == "embedding"
                per_token += parameter.shape[1] if by_line else sum(parameter.shape)
        stop = start + parameter.numel()
        tensors.append(TrainedTensor(name, parameter, start, stop, per_token, tuple(captured)))
        start = stop
    if not tensors:
        remedy = "unfreeze the model, or give SFTTrainer a peft_config."
        raise PrerequisiteError(describe("trained parameters", "none", "some that train", remedy))
    held = (
        TrainedModule(name, modules[name], _kind(modules[name]), own, _checkpointing(modules, name))
        for name, own in holding.items()
    )
    return TrainedParameters(tuple(tensors), tuple(held), _trained_head(model, head, tensors))


def _kind(module: nn.Module) -> Kind:
    from transformers.pytorch_utils import Conv1D

    if type(module).forward is nn.Linear.forward:
        return "linear"
    if isinstance(module, Conv1D):
        return "conv1d"
    if isinstance(module, nn.Embedding):
        return "embedding"
    if is_svd(module):
        return "svd"
    return "magnitude" if type(module).__name__ == "DoraLinearLayer" else "replayed"


def _refusal(modules: dict[str, nn.Module], owner: str, own: str, head: object) -> str | None:
    """Why the parameter `own` of the module `owner` cannot be captured; None where it can."""
    module = modules[owner]
    if is_svd(module):
        return svd_refusal(module)
    above = [owner.rsplit(".", i)[0] for i in range(1, owner.count(".") + 1)]
    if type(module).forward is nn.Module.forward or any(type(modules[a]).__name__ == "ParamWrapper" for a in above):
        return "it is used outside a module of its own (LoRA on embeddings or on bare parameters, IA3, VeRA)"
    if next(module.children(), None) is not None:
        return f"{type(module).__name__}, which holds it, has parts of its own"
    if "prompt_encoder" in owner.split("."):
        return "prompts that train are no rows' tokens"
    at_head = isinstance(head, nn.Module) and any(part is module for part in head.modules())
    if at_head and getattr(module, own) is not getattr(head, own, None):
        return "TRL's fused head does not call it"
    if (
        own in ("weight", "bias")
        and owner.endswith(".base_layer")
        and len(getattr(modules[above[0]], "lora_magnitude_vector", ()))
    ):
        return "DoRA uses it beside its own module"
    if above and is_svd(modules[above[0]]):
        return "AdaLoRA adds to its output in place"
    # Experts and routers are called on tokens of all rows together.
    mixes = module.get_parameter(own).dim() > 2 or "router" in type(module).__name__.lower()
    if _kind(module) == "replayed" and type(module) not in vars(nn).values() and mixes:
        return f"{type(module).__name__} is called on tokens, not on rows"
    if isinstance(module, nn.Embedding):
        changed = type(module).forward is not nn.Embedding.forward and not hasattr(module, "embed_scale")
        if changed or module.max_norm is not None or module.scale_grad_by_freq or module.sparse:
            return f"an embedding of its own kind ({type(module).__name__})"
    return None


def _refused(name: str, reason: str) -> str:
    expected = "parameters of modules that are called on rows: Linear, Conv1D, Embedding, norms, LoRA and DoRA on them"
    remedy = "leave it frozen: take it out of LoraConfig(target_modules=..., modules_to_save=...), or requires_grad_."
    return describe("trained parameters", f"{name} ({reason})", expected, remedy)


def _checkpointing(modules: dict[str, nn.Module], name: str) -> nn.Module | None:
    from transformers.modeling_layers import GradientCheckpointingLayer

    parts = name.split(".")
    around = (modules[".".join(parts[:i])] for i in range(1, len(parts)))
    return next((module for module in around if isinstance(module, GradientCheckpointingLayer)), None)


def _trained_head(model: Any, head: object, tensors: list[TrainedTensor]) -> TrainedHead | None:
    numbers = {id(tensor.parameter): i for i, tensor in enumerate(tensors)}
    weight, bias = (numbers.get(id(getattr(head, own, None))) for own in ("weight", "bias"))
    if not isinstance(head, nn.Module) or (weight is None and bias is None):
        return None
    config = model.config.get_text_config()
    factors = (getattr(config, name, None) for name in ("logit_scale", "output_multiplier", "lm_head_multiplier"))
    scale = next((float(factor) for factor in factors if factor is not None), None)
    divisor = getattr(config, "logits_scaling", None)
    if scale is None and divisor is not None:
        scale = float(divisor) if config.model_type == "hyperclovax" else 1 / float(divisor)
    return TrainedHead(
        head, weight, bias, 1.0 if scale is None else scale, getattr(config, "final_logit_softcapping", None)
    )
