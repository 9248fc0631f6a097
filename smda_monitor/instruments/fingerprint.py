"""The fingerprint of a model's weights: what a policy and an adapter are bound to."""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict

import torch
from torch import Tensor, nn

from .sharded import whole

_CHUNK = 1 << 18
"""Elements read at a time; small enough for the processor's cache."""
_INTEGER = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_LORA = re.compile(r"(?P<owner>.+)\.(?P<part>lora_\w+)\.(?P<adapter>[^.]+)(?P<rest>(\..+)?)")
_COPY = re.compile(r"(?P<owner>.+)\.(modules_to_save\.(?P<adapter>[^.]+)|original_module)(?P<rest>\..+)")


def model_fingerprint(model: nn.Module) -> str:
    """16 hex digits that identify the function which the model's parameters make.

    SHA-256 over, for every parameter, its name, shape, type and an exact checksum of its bits, so that one changed bit
    anywhere changes it, and a float32 and a bfloat16 copy of one model differ. It is the same on every device and for
    every number of threads.

    PEFT's wrapping alone changes nothing: names are those of the bare model, and a LoRA adapter counts, with its
    scaling, only where it is in force and changes its layer (neither A nor B all zero), under whatever name. So a fresh
    LoRA adapter, whose B is zero, leaves the fingerprint of the model below it. Merging an adapter rounds the weights
    and changes it.
    Parameters alone are read, not buffers. Costs about one pass over the weights; no random state is used.
    """
    entries: list[object] = []
    adapters: defaultdict[tuple[str, str], dict[str, Tensor]] = defaultdict(dict)
    for name, parameter in model.named_parameters():
        if (lora := _LORA.fullmatch(name)) and hasattr(model.get_submodule(lora["owner"]), "scaling"):
            adapters[lora["owner"], lora["adapter"]][lora["part"] + lora["rest"]] = parameter
        elif copy := _COPY.fullmatch(name):
            active = _active(model.get_submodule(copy["owner"]))
            if (copy["adapter"] in active) if copy["adapter"] else not active:
                entries.append(_entry(_bare(copy["owner"]) + copy["rest"], parameter))
        else:
            entries.append(_entry(_bare(name), parameter))
    for (owner, adapter), parts in adapters.items():
        layer = model.get_submodule(owner)
        if adapter in _active(layer) and _changes(parts):
            scaling: dict[str, float] = layer.scaling  # type: ignore[assignment]
            weights = [_entry(part, parts[part]) for part in sorted(parts)]
            entries.append(["adapter", _bare(owner), float(scaling[adapter]), weights])
    lines = sorted(json.dumps(entry) for entry in entries)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def checksum(tensor: Tensor) -> int:
    """Σ_i bits_i · odd(i) mod 2⁶⁴ over the tensor's elements in row-major order, as a signed number.

    bits_i is the raw element read as an integer, odd(i) an odd 64-bit number that depends on the position. Integer sums
    do not depend on their order, so the value is exact on every device; an odd factor loses no bit, so one changed
    element always changes it.
    """
    flat = whole(tensor.detach()).contiguous().reshape(-1)
    bits = flat.view(_INTEGER[flat.element_size()])
    total = torch.zeros((), dtype=torch.int64, device=flat.device)
    for start in range(0, bits.numel(), _CHUNK):
        piece = bits[start : start + _CHUNK].long()
        odd = torch.arange(start, start + piece.numel(), dtype=torch.int64, device=flat.device)
        odd.mul_(-7046029254386353131)  # products wrap around; the two factors and shifts spread a position's bits
        odd.bitwise_xor_(odd >> 31).mul_(-4658895280553007687).bitwise_or_(1)
        total += odd.mul_(piece).sum()  # never into piece: of 64-bit weights it is a view
    return int(total.item())


def _entry(name: str, parameter: Tensor) -> list[object]:
    """What is hashed of one parameter."""
    return [name, list(parameter.shape), str(parameter.dtype), checksum(parameter)]


def _bare(name: str) -> str:
    """A parameter's or module's name without what wrappers (DDP, compile, PEFT) put into it."""
    name = name.replace("_orig_mod.", "").replace(".base_layer", "").removeprefix("module.")
    while name.startswith("base_model.model."):
        name = name.removeprefix("base_model.model.")
    return name


def _active(layer: nn.Module) -> set[str]:
    """Names of the adapters of a PEFT layer that are in force and not merged into the weights."""
    if getattr(layer, "disable_adapters", False):
        return set()
    names: list[str] = getattr(layer, "active_adapters", [])
    merged: list[str] = getattr(layer, "merged_adapters", [])
    return set(names) - set(merged)


def _changes(parts: dict[str, Tensor]) -> bool:
    """Whether a LoRA adapter changes its layer: neither its A nor its B is all zero."""
    sides = ([tensor for part, tensor in parts.items() if side in part] for side in ("_A", "_B"))
    return all(any(bool(whole(tensor).any()) for tensor in side) for side in sides)
