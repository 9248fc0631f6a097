"""Trainer modes that the account is not exact for are refused by the argument's name, with what to set instead."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny

from smda_monitor.errors import PrerequisiteError
from smda_monitor.instruments.trainer_mode import PACKED, REFUSED, check_sharding, check_trainer_mode

WRONG: dict[str, Any] = {
    "loss_type": "dft",
    "label_smoothing_factor": 0.1,
    "neftune_noise_alpha": 5.0,
    "use_liger_kernel": True,
    "torch_compile": True,
    "deepspeed": "zero3.json",
    "fp16": True,
}
"""One value of each argument that changes what a row's gradient means."""


def test_every_refused_argument_has_a_case() -> None:
    assert {name for name, _, _ in REFUSED} == set(WRONG)


@pytest.mark.parametrize("name", WRONG)
def test_each_is_refused_by_name(name: str) -> None:
    with pytest.raises(PrerequisiteError, match=rf"SFTConfig\.{name}: found ") as error:
        check_trainer_mode(SimpleNamespace(**{name: WRONG[name]}))
    message = str(error.value)
    assert repr(WRONG[name]) in message
    assert f"What to do: set {name}=" in message


@pytest.mark.parametrize("name", WRONG)
def test_its_accepted_values_pass(name: str) -> None:
    (accepted,) = (values for argument, values, _ in REFUSED if argument == name)
    for value in accepted:
        check_trainer_mode(SimpleNamespace(**{name: value}))


def test_packing_that_cuts_rows_anywhere() -> None:
    with pytest.raises(PrerequisiteError, match=r"SFTConfig\.packing_strategy: found 'wrapped'"):
        check_trainer_mode(SimpleNamespace(packing=True, packing_strategy="wrapped"))
    check_trainer_mode(SimpleNamespace(packing=False, packing_strategy="wrapped"))
    for strategy in PACKED:
        check_trainer_mode(SimpleNamespace(packing=True, packing_strategy=strategy, padding_free=True))


@pytest.mark.parametrize("value", [True, "full_shard", ["full_shard"]])
def test_fsdp(value: Any) -> None:
    with pytest.raises(PrerequisiteError, match=r"SFTConfig\.fsdp: found "):
        check_trainer_mode(SimpleNamespace(fsdp=value))
    for off in (None, False, "", []):
        check_trainer_mode(SimpleNamespace(fsdp=off))
    check_trainer_mode(SimpleNamespace(fsdp=value), allow_untested=True)


def test_fsdp_of_the_first_version() -> None:
    """Its parameters lie in flat ones, which no module is called on."""
    with pytest.raises(PrerequisiteError, match=r"fsdp_config: .*fsdp_version"):
        check_sharding(SimpleNamespace(fsdp=True), tiny.tiny_llama())
    check_sharding(SimpleNamespace(fsdp=None), tiny.tiny_llama())


def processes(kind: str, count: int = 2) -> SimpleNamespace:
    from accelerate.utils import DistributedType

    return SimpleNamespace(world_size=count, distributed_state=SimpleNamespace(distributed_type=DistributedType(kind)))


@pytest.mark.parametrize("args", [{"n_gpu": 2}, {"world_size": 2, "n_gpu": 4}])
def test_several_devices_of_one_process(args: dict[str, int]) -> None:
    with pytest.raises(PrerequisiteError, match=rf"processes: found .* {args['n_gpu']} GPUs each"):
        check_trainer_mode(SimpleNamespace(**args))
    check_trainer_mode(SimpleNamespace(world_size=1, n_gpu=1))


@pytest.mark.parametrize("kind", ["FSDP", "DEEPSPEED", "MEGATRON_LM", "XLA"])
def test_processes_that_share_one_model(kind: str) -> None:
    with pytest.raises(PrerequisiteError, match=f"processes: found 2, .*{kind}"):
        check_trainer_mode(processes(kind))
    with pytest.raises(PrerequisiteError, match="processes: found 2"):
        check_trainer_mode(SimpleNamespace(world_size=2))


@pytest.mark.parametrize("kind", ["MULTI_CPU", "MULTI_GPU", "MULTI_NPU"])
def test_processes_with_a_model_each(kind: str) -> None:
    check_trainer_mode(processes(kind))


def test_trls_defaults_pass_and_their_names_are_real(tmp_path: Path) -> None:
    from trl import SFTConfig

    args = SFTConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to="none")
    check_trainer_mode(args)
    for name, accepted, _ in REFUSED:
        assert getattr(args, name) in accepted, "an argument that TRL renamed would pass unseen"
    assert not args.fsdp
    for setting in ({"loss_type": "dft"}, {"neftune_noise_alpha": 5.0}):
        wrong = SFTConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to="none", **setting)
        with pytest.raises(PrerequisiteError, match=rf"SFTConfig\.{next(iter(setting))}"):
            check_trainer_mode(wrong)
