"""What `import smda_monitor` loads, and that every public name is there."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import smda_monitor

HEAVY = [
    "torch",
    "transformers",
    "trl",
    "peft",
    "wandb",
    "sae_lens",
    "pandas",
    "plotly",
    "sklearn",
    "pyarrow",
    "datasets",
]
LIGHT_NAMES = "load_config, read_probes, MonitorConfig, Probe, ProbeSet, ConfigError"


def loaded_after(code: str) -> set[str]:
    """The heavy packages that a fresh interpreter has loaded after `code`."""
    program = f"{code}\nimport sys, json; print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert loaded_after("import smda_monitor") == set()


def test_files_are_read_without_anything_heavy() -> None:
    code = f"from smda_monitor import {LIGHT_NAMES}\nread_probes('shipped'); load_config({{}})"
    assert loaded_after(code) <= {"torch"}


def test_the_command_line_shows_its_help_without_anything_heavy() -> None:
    assert loaded_after("import smda_monitor.cli as cli\ntry: cli.main(['--help'])\nexcept SystemExit: pass") == set()


def test_the_check_can_fail() -> None:
    assert "sklearn" in loaded_after("import sklearn")


@pytest.mark.parametrize("name", smda_monitor.__all__)
def test_every_public_name_is_there_and_listed(name: str) -> None:
    assert name in dir(smda_monitor)
    assert getattr(smda_monitor, name) is getattr(smda_monitor, name)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'surprise'"):
        smda_monitor.surprise  # noqa: B018
    with pytest.raises(ImportError):
        exec("from smda_monitor import surprise")
