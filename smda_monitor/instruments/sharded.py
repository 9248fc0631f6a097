"""Models whose parameters FSDP2 keeps in shards (`torch.distributed.fsdp.fully_shard`), a part on every rank.

A forward must go in where the sharding begins: there the shards are put together, layer by layer, and let go again.
Outside a forward a parameter is a part alone, and putting it together is an exchange in which all ranks take part.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from .hookpoint import ResidualTap


def whole(tensor: Tensor) -> Tensor:
    """All of a sharded tensor, by an exchange; any other tensor itself."""
    put_together: Any = getattr(tensor, "full_tensor", None)
    return tensor if put_together is None else put_together()


def own_part(tensor: Tensor) -> Tensor:
    """What of `tensor` lies on this rank: its shard, or all of it where it is not sharded."""
    local: Any = getattr(tensor, "to_local", None)
    return tensor if local is None else local()


def placed(tensor: Tensor, like: Tensor) -> Tensor:
    """A copy of `tensor`, which every rank has whole or a shard of, of the type of `like`, on its device and sharded as
    it is."""
    mesh = getattr(like, "device_mesh", None)
    if mesh is None or hasattr(tensor, "device_mesh"):
        return tensor.to(like, copy=True)
    from torch.distributed.tensor import distribute_tensor

    placements: Any = like.placements  # type: ignore[attr-defined]
    local = tensor.to(device=like.device, dtype=like.dtype, copy=True)
    return distribute_tensor(local, mesh, placements, src_data_rank=None)


def is_sharded(model: nn.Module) -> bool:
    """Whether any parameter of `model` is."""
    return any(hasattr(parameter, "full_tensor") for parameter in model.parameters())


def put_away(model: nn.Module) -> None:
    """Lets go what the last forward has put together. The outermost place keeps it until a backward: its modules hold
    other parameters than the shards until then, and do not know what an optimizer has done to these."""
    for module in model.modules():
        if _is_place(module):
            module.reshard()  # type: ignore[operator]


def _is_place(module: nn.Module) -> bool:
    # By its marks, since torch without torch.distributed has no class to ask for.
    return hasattr(module, "unshard") and hasattr(module, "reshard")


def entrance(model: nn.Module, causal: nn.Module) -> nn.Module:
    """What a forward of the `causal` model in `model` has to call, on the parameters as they are now: the outermost
    sharded module around it, or it."""
    put_away(model)
    for module in model.modules():
        if module is causal:
            break
        if _is_place(module) and any(m is causal for m in module.modules()):
            return module
    return causal


def run_to_hookpoint(tap: ResidualTap, causal: nn.Module, forward: Callable[[], object]) -> Tensor:
    """What the open `tap` sees of a `forward` of the `causal` model that ends there. A sharded model's goes on: what is
    put together in a forward is let go at its end."""
    if not is_sharded(causal):
        return tap.run(forward)
    forward()
    return tap.take()
