"""How large W&B's history of a run becomes: an account logged again and again by the monitor's own sink, offline.

    python recipes/benchmarks/_wandb_growth.py LEDGER FOLDER STEPS …

prints the bytes that W&B wrote below FOLDER for each number of steps, scalars and tables of rows, as one JSON object.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from _growth import Growth
from _peak import in_own_process

from smda_monitor.outputs.ledger_reader import read_ledger
from smda_monitor.outputs.wandb_sink import WandbSink


def wandb_growth(ledger: Path, folder: Path, sizes: Sequence[int]) -> Growth:
    """Bytes with the steps of a run that has an account of each, of the first account of the run in `ledger`; written
    below `folder`, where nothing stays."""
    with tempfile.TemporaryDirectory(prefix="wandb-", dir=folder) as temporary:
        found = in_own_process(Path(__file__), [str(ledger), temporary, *map(str, sizes)])
    return Growth(tuple(sizes), tuple(found["bytes"]), "B")


def written(ledger: Path, folder: Path, steps: int) -> int:
    """Bytes below `folder` of as many accounts."""
    import wandb

    account, sink = read_ledger(ledger).accounts[0], WandbSink()
    folder.mkdir(parents=True)
    settings = wandb.Settings(console="off", silent=True, x_disable_stats=True)
    with wandb.init(mode="offline", dir=str(folder), project="smda-overhead", settings=settings):
        for step in range(1, steps + 1):
            sink.account(replace(account, step=step, since=step - 1))
        sink.finish({})
    wandb.teardown()  # its service writes the last block of the history when it ends
    return sum(path.stat().st_size for path in folder.glob("wandb/offline-run-*/**/*") if path.is_file())


def main(ledger: Path, folder: Path, sizes: Sequence[int]) -> None:
    """For a process of its own, whose W&B folders it sets."""
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_ARTIFACT_DIR"):
        os.environ[name] = str(folder / name)
    print(json.dumps({"bytes": [written(ledger, folder / str(steps), steps) for steps in sizes]}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), [int(steps) for steps in sys.argv[3:]])
