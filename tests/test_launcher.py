"""Processes that a launcher started, and that do not train together, are told of."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import tiny

from smda_monitor.callback import SMDACallback
from smda_monitor.instruments.launcher import LAUNCHERS, apart


@pytest.mark.parametrize("variable", [variable for _, variable in LAUNCHERS])
def test_more_were_started_than_train_together(variable: str) -> None:
    said = apart({variable: "4", "HOME": "/"}, 1)
    assert said is not None
    assert f"4 processes ({variable}), but 1 trains together" in said
    assert "2 train together" in str(apart({variable: "4"}, 2))


@pytest.mark.parametrize(
    ("environment", "processes"),
    [
        ({}, 1),
        ({"WORLD_SIZE": "1"}, 1),
        ({"WORLD_SIZE": "2"}, 2),
        ({"SLURM_NTASKS": "1(x2)"}, 1),
        ({"PMI_SIZE": ""}, 1),
    ],
)
def test_nothing_is_said_otherwise(environment: dict[str, str], processes: int) -> None:
    assert apart(environment, processes) is None


@pytest.mark.parametrize(("count", "is_said"), [(2, True), (1, False)])
def test_accelerate_starts_one_of_several_on_a_cpu(count: int, is_said: bool) -> None:
    """By what it sets itself."""
    from accelerate.commands.launch import launch_command_parser
    from accelerate.utils.launch import prepare_simple_launcher_cmd_env

    args = launch_command_parser().parse_args(["--cpu", "--num_processes", str(count), "train.py"])
    args.mixed_precision, args.num_machines, args.dynamo_backend = "no", 1, "no"
    _, environment = prepare_simple_launcher_cmd_env(args)
    said = apart(environment, 1)
    assert ("has started this one alone" in str(said)) == is_said


def test_a_run_says_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    trainer = tiny.tiny_trainer(tmp_path, [SMDACallback(tiny.tiny_config(tmp_path / "m"))], max_steps=1)
    monkeypatch.setenv("SLURM_NTASKS", "2")
    with caplog.at_level(logging.WARNING, "smda_monitor"):
        trainer.train()
    assert any("srun tells of 2 processes" in record.getMessage() for record in caplog.records)
