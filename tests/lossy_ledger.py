"""A killed run as it is and under a ledger that leaves a step out, for `test_faults.py`: forks, so in a process of its
own with one thread."""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # a fork must not happen beside threads

import json
import random
import sys
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "recipes" / "benchmarks"))
from _bed import make_bed, open_bed
from _forked import in_child
from _kills import one_kill, unbroken
from _small_run import SmallRun

from smda_monitor.outputs.ledger import Ledger

folder = Path(sys.argv[1])
in_child(partial(make_bed, "tiny", folder / "bed"))
run = SmallRun(open_bed(folder / "bed"), folder / "run")
whole = in_child(partial(unbroken, run))
account = Ledger.account


def loses(self: Ledger, entry: Any) -> None:
    """Of all steps but one."""
    if entry.step != 3:
        account(self, entry)


found = [one_kill(run, whole, "training", random.Random(0))]
Ledger.account = loses  # type: ignore[method-assign]
found.append(one_kill(run, whole, "training", random.Random(0)))
for left in found:
    print(json.dumps({"missing": left.missing, "changed": left.changed}))
