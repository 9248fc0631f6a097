"""`make` on a machine where something is missing says what, and leaves no environment that counts as whole."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]


def _make(venv: Path, python: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`make test` with an environment of its own, without what an outer `make` hands down."""
    make = shutil.which("make")
    if make is None:
        pytest.skip("there is no make")
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS", "PIP_", "VIRTUAL_ENV"))}
    command = [make, "-C", str(REPOSITORY), "test", f"VENV={venv}", f"PYTHON={python}"]
    return subprocess.run(command, env={**inherited, **environment}, capture_output=True, text=True, check=False)


def test_a_missing_package_network_is_said(tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    result = _make(venv, sys.executable, PIP_NO_INDEX="1", PIP_CONFIG_FILE=os.devnull)
    assert result.returncode != 0
    assert "could not install the project's requirements: is a package index reachable?" in result.stderr
    assert not (venv / ".installed").exists(), "the next call tries again"


def test_a_python_that_is_too_old_is_named(tmp_path: Path) -> None:
    old = tmp_path / "old-python"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.8.1"\nexit 1\n')
    old.chmod(0o755)
    for tool in ("sh", "tail"):
        found = shutil.which(tool)
        assert found is not None
        (tmp_path / tool).symlink_to(found)
    result = _make(tmp_path / "venv", str(old), PATH=str(tmp_path))
    assert result.returncode != 0
    assert "Python 3.11 or newer is needed" in result.stderr
    assert "Python 3.8.1" in result.stderr
    assert not (tmp_path / "venv").exists()
