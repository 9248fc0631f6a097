"""Which trainer modes the account is exact for; every other is refused by name before the first step."""

from __future__ import annotations

from typing import Any

from ..errors import PrerequisiteError, describe

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


def check_trainer_mode(args: Any) -> None:
    """Raises `PrerequisiteError` naming the argument of `args` (SFTConfig) that is not accounted for yet."""
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
    if getattr(args, "fsdp", None):
        raise PrerequisiteError(describe("SFTConfig.fsdp", repr(args.fsdp), "none", "train without FSDP."))
    processes, accelerators = getattr(args, "world_size", 1), getattr(args, "n_gpu", 0)
    if accelerators > 1:
        found = f"{processes} processes, {accelerators} GPUs each"
        remedy = "launch a process for each: torchrun --nproc-per-node N, or hide the others (CUDA_VISIBLE_DEVICES)."
        raise PrerequisiteError(describe("processes", found, "one device for each", remedy))
    kind = getattr(getattr(args, "distributed_state", None), "distributed_type", None)
    if processes > 1 and not str(getattr(kind, "value", kind)).startswith("MULTI_"):
        remedy = "train with plain data parallelism (torchrun and no FSDP, DeepSpeed or Megatron), or in one process."
        raise PrerequisiteError(describe("processes", f"{processes}, {kind}", "copies of the whole model", remedy))
    if (parallel := getattr(args, "parallelism_config", None)) is not None:
        remedy = "set parallelism_config=None."
        raise PrerequisiteError(describe("SFTConfig.parallelism_config", parallel, "None", remedy))
