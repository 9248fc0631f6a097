"""Peak memory of one run, in a process of its own: a process's peak never falls."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import smda_monitor

_STATUS = Path("/proc/self/status")


def peak_bytes() -> int:
    """The largest resident memory of this process so far.

    On Linux from VmHWM: ``ru_maxrss`` there starts from the peak of the process that started this one.
    """
    if _STATUS.is_file():
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    found = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return found if sys.platform == "darwin" else found * 1024


def in_own_process(script: Path, arguments: Sequence[str]) -> dict[str, Any]:
    """The JSON object that `script` prints as its last line. Raises `RuntimeError` with its errors where it fails."""
    # The package that is loaded here, wherever it was found.
    package = str(Path(smda_monitor.__file__).parent.parent)
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, str(script), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
    )
    if done.returncode != 0:
        raise RuntimeError(f"{script.name} {' '.join(arguments)} failed:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found
