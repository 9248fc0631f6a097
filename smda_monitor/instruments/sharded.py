"""Models whose parameters FSDP2 keeps in shards (`torch.distributed.fsdp.fully_shard`), a part on every rank.

A forward must go in where the sharding begins: there the shards are put together, layer by layer, and let go again.
Outside a forward a parameter is a part alone, and putting it together is an exchange in which all ranks take part.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


def whole(tensor: Tensor) -> Tensor:
    """All of a sharded tensor, by an exchange; any other tensor itself."""
    put_together: Any = getattr(tensor, "full_tensor", None)
    return tensor if put_together is None else put_together()


def is_sharded(model: nn.Module) -> bool:
    """Whether any parameter of `model` is."""
    return any(hasattr(parameter, "full_tensor") for parameter in model.parameters())


def entrance(model: nn.Module, causal: nn.Module) -> nn.Module:
    """What a forward of the `causal` model in `model` has to call: the outermost sharded module around it, or it."""
    for module in model.modules():
        if module is causal:
            break
        # By its marks, since torch without torch.distributed has no class to ask for.
        if hasattr(module, "unshard") and hasattr(module, "reshard") and any(m is causal for m in module.modules()):
            return module
    return causal
