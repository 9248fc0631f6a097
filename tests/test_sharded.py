"""Instruments on parameters that FSDP2 shards over two ranks have the figures of the whole model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "sharded.py"


@pytest.mark.parametrize("mode", ["LoRA", "full, untied"])
def test_figures_are_those_of_the_whole_model(mode: str) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*launcher, str(SCRIPT), mode], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
