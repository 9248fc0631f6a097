"""Which trainer modes the account is exact for; every other is refused by name before the first step."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..errors import PrerequisiteError, describe
from .sharded import is_sharded

REFUSED = (
    ("loss_type", ("nll", None), "loss_type='nll'"),
    ("label_smoothing_factor", (0, 0.0, None), "label_smoothing_factor=0"),
    ("neftune_noise_alpha", (None, 0), "neftune_noise_alpha=None"),
    ("use_liger_kernel", (False, None), "use_liger_kernel=False"),
    ("torch_compile", (False, None), "torch_compile=False"),
    ("deepspeed", (None,), "deepspeed=None"),
    ("fp16", (False, None), "fp16=False (bf16 or fp32)"),
)
"""(argument, values that are accounted for, what to set instead)."""
PACKED = ("bfd", "bfd_split")
"""Packing strategies that leave every row, or part of one, a sequence of its own."""


def check_trainer_mode(args: Any, allow_untested: bool = False) -> None:
    """Raises `PrerequisiteError` naming the argument of `args` (SFTConfig) that is not accounted for yet, or that is
    untested, unless these are allowed."""
    kinds = {kind.__name__ for kind in type(args).__mro__}
    if "TrainingArguments" in kinds and "SFTConfig" not in kinds:
        remedy = "the account is of SFTTrainer's loss: train with trl.SFTTrainer and SFTConfig."
        raise PrerequisiteError(describe("trainer's arguments", type(args).__name__, "trl.SFTConfig", remedy))
    for name, accepted, instead in REFUSED:
        value = getattr(args, name, accepted[0])
        if value not in accepted:
            expected = " or ".join(map(repr, accepted))
            raise PrerequisiteError(describe(f"SFTConfig.{name}", repr(value), expected, f"set {instead}."))
    strategy = getattr(args, "packing_strategy", None)
    if getattr(args, "packing", False) and strategy not in PACKED:
        remedy = "set packing_strategy='bfd', or packing=False."
        found = f"{strategy!r}, which joins rows and cuts them anywhere"
        raise PrerequisiteError(describe("SFTConfig.packing_strategy", found, " or ".join(map(repr, PACKED)), remedy))
    fsdp = bool(getattr(args, "fsdp", None))
    if fsdp and not allow_untested:
        remedy = "train without FSDP, or try it: allow_untested: true. What reads shards is tested, such a run is not."
        raise PrerequisiteError(describe("SFTConfig.fsdp", repr(args.fsdp), "none", remedy))
    processes, accelerators = getattr(args, "world_size", 1), getattr(args, "n_gpu", 0)
    if accelerators > 1:
        found = f"{processes} processes, {accelerators} GPUs each"
        remedy = "launch a process for each: torchrun --nproc-per-node N, or hide the others (CUDA_VISIBLE_DEVICES)."
        raise PrerequisiteError(describe("processes", found, "one device for each", remedy))
    kind = getattr(getattr(args, "distributed_state", None), "distributed_type", None)
    if processes > 1 and not fsdp and not str(getattr(kind, "value", kind)).startswith("MULTI_"):
        remedy = "train with plain data parallelism (torchrun and no FSDP, DeepSpeed or Megatron), or in one process."
        raise PrerequisiteError(describe("processes", f"{processes}, {kind}", "copies of the whole model", remedy))
    if (parallel := getattr(args, "parallelism_config", None)) is not None:
        remedy = "set parallelism_config=None."
        raise PrerequisiteError(describe("SFTConfig.parallelism_config", parallel, "None", remedy))


def check_sharding(args: Any, model: nn.Module) -> None:
    """Raises `PrerequisiteError` where FSDP shards in another way than FSDP2, which keeps parameters apart."""
    if getattr(args, "fsdp", None) and not is_sharded(model):
        found = "FSDP without a parameter that is sharded by itself"
        remedy = "set fsdp_config={'fsdp_version': 2}."
        raise PrerequisiteError(describe("SFTConfig.fsdp_config", found, "FSDP2", remedy))
